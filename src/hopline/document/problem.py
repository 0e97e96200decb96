"""What is wrong with a document, in one line that names file, line, table, entry and field."""

import re

from hopline.errors import InvalidInput
from hopline.spelling import shown

DOCUMENT = "document"  # the field of a problem that is the whole document's

Path = tuple[str | int, ...]  # ("forward", 3, "dst_mac")

_FIELD = re.compile(r"(?P<noun>[^.\[\]]+)\[(?P<place>\d{1,12})\](?:\.(?P<name>.+))?", re.DOTALL)
_WITHIN = re.compile(r"(?P<noun>[a-z_]+)\[(?P<place>\d{1,12})\](?:\.(?P<name>.+))?", re.DOTALL)
_WHOLE = {DOCUMENT, "body"}


def path_of(field: str) -> Path:
    """Return the way to a field from the top of a document: `forward[3].dst_mac` → ("forward", 3, "dst_mac").

    An entry may have a list of tables: `service[0].backend[2].weight` → ("service", 0, "backend", 2, "weight").
    """
    found = _FIELD.fullmatch(field)
    if found is None:
        return (field,)
    entry: Path = (found["noun"], int(found["place"]))
    name = found["name"]
    within = _WITHIN.fullmatch(name) if name else None
    if within is not None:
        entry = (*entry, within["noun"], int(within["place"]))
        name = within["name"]
    return (*entry, name) if name else entry


def placed(error: InvalidInput, noun: str, place: int, line: int | None, key: str | None) -> InvalidInput:
    """Return an entry's refusal as its document's; an empty field is the entry itself."""
    field = f"{noun}[{place}]" + (f".{error.field}" if error.field else "")
    return InvalidInput(field, error.detail, error.hint, line=line, key=key)


def describe(problem: InvalidInput, name: str) -> str:
    """Return one problem of the document `name` in one line: `fw.toml:17: forward[3] (10.0.0.5): dst_mac: …`."""
    path = path_of(problem.field)
    parts = [name if problem.line is None else f"{name}:{problem.line}"]
    if len(path) > 1:
        key = shown(problem.key or "")
        # where it is the key that is wrong, the detail begins with it
        named = f" ({key})" if problem.key and not problem.detail.startswith(key) else ""
        parts.append(f"{path[0]}[{path[1]}]{named}")
    if len(path) != 2 and problem.field not in _WHOLE:
        within = f"{path[2]}[{path[3]}]." if len(path) == 5 else ""
        parts.append(f"{path[2]}[{path[3]}]" if len(path) == 4 else f"{within}{path[-1]}")
    parts += [problem.detail, problem.hint]
    return ": ".join(part for part in parts if part)
