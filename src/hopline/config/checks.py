"""What checking an entry of any noun comes to: its fields one by one, and all that is wrong in one refusal."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from hopline.errors import InvalidInput, Problems
from hopline.spelling import shown

FieldChecks = Mapping[str, Callable[[Any, str], Any]]  # field → its value and its name → the value in its one spelling
Together = Iterator[tuple[str, InvalidInput]]  # key of an entry, and what is wrong with it beside the others


def check_fields(entry: Any, checks: FieldChecks, problems: Problems, where: str = "") -> None:
    """Note each field whose value cannot be right; None is the absence of one."""
    for name, check in checks.items():
        value = getattr(entry, name)
        if value is not None:
            try:
                check(value, f"{where}{name}")
            except InvalidInput as error:
                problems.add(error)


def refuse(problems: Problems, where: str) -> NoReturn:
    """Raise what was noted, `where` before the names of fields."""
    try:
        problems.refuse()
    except InvalidInput as error:
        raise (error.within(where) if where else error) from None
    raise AssertionError("nothing was wrong")


def one_of(*words: str) -> Callable[[str, str], str]:
    """Return the check of a field that is one of some words."""

    def check(text: str, field: str) -> str:
        if text not in words:
            raise InvalidInput(field, f"{shown(str(text))} is none of these", f"use one of {', '.join(words)}")
        return text

    return check


def whole(least: int, most: int) -> Callable[[int, str], int]:
    """Return the check of a field that is a whole number."""

    def check(value: int, field: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InvalidInput(field, f"{shown(str(value))} is out of range", f"give a whole number, {least} to {most}")
        return value

    return check


def seconds(least: float, most: float) -> Callable[[float, str], float]:
    """Return the check of a field that is a time in seconds."""

    def check(value: float, field: str) -> float:
        # what is no number compares with nothing
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise InvalidInput(field, f"{shown(str(value))} is out of range", f"give {least:g} to {most:g} seconds")
        return value

    return check
