"""What a change of the intent adds, changes and removes, in lines that a person reads."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from hopline.cli.output import NONE

if TYPE_CHECKING:
    import msgspec

    from hopline.daemon.protocol import Applied, Difference

MOST_LINES = 100  # of each kind
ASK_FOR = MOST_LINES  # the daemon counts for each noun and kind

_KINDS = ("added", "changed", "removed")
_MARKS = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}


def total(applied: "Applied", kind: str) -> int:
    """Return how many entries of all nouns are added, changed or removed."""
    return sum(getattr(counts, kind) for counts in applied.counts.values())


def differs(applied: "Applied") -> bool:
    """Return whether there is anything that the change touches."""
    return any(total(applied, kind) for kind in _KINDS)


def show(applied: "Applied") -> None:
    """Print a line for each entry, at most MOST_LINES of each kind, and one that sums up."""
    for line in lines(applied):
        click.echo(line)


def lines(applied: "Applied") -> Iterator[str]:
    """Yield the lines, what is added first; in the colours of a terminal, which `click.echo` takes off elsewhere."""
    listed: dict[str, list[Difference]] = {kind: [] for kind in _KINDS}
    for difference in applied.differences:
        listed[_kind(difference)].append(difference)
    for kind in _KINDS:
        mark, colour = _MARKS[kind]
        shown = listed[kind][:MOST_LINES]
        for difference in shown:
            yield click.style(f"{mark} {_entry(difference)}", fg=colour)
        if more := total(applied, kind) - len(shown):
            yield click.style(f"{mark} … and {more} more" if shown else f"{mark} … {more} entries", fg=colour)
    yield summary(applied)


def summary(applied: "Applied") -> str:
    """Return the counts in one line: `interface: 1 added; forward: 2 added, 1 removed`."""
    nouns = []
    for noun, counts in applied.counts.items():
        said = [f"{getattr(counts, kind)} {kind}" for kind in _KINDS if getattr(counts, kind)]
        if said:
            nouns.append(f"{noun}: {', '.join(said)}")
    return "; ".join(nouns) or "no difference"


def _kind(difference: "Difference") -> str:
    return "added" if difference.before is None else "removed" if difference.after is None else "changed"


def _entry(difference: "Difference") -> str:
    """Return noun, key and fields: all that are said of what comes or goes, old and new of what changes."""
    before, after = difference.before, difference.after
    if before is None or after is None:
        said = _said(difference, after or before or {})
        fields = [f"{name} {_word(value)}" for name, value in said.items()]
    else:
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        fields = [f"{name} {_word(before.get(name))} → {_word(after.get(name))}" for name in names]
    return "  ".join([f"{difference.noun} {difference.key}", *fields])


def _said(difference: "Difference", entry: Mapping[str, str | bool | None]) -> dict[str, str | bool | None]:
    """Return the fields that say something: neither the key, which is shown already, nor defaults."""
    from hopline.intent import NOUNS

    noun = next(noun for noun in NOUNS if noun.name == difference.noun)
    need_not_be_said = {noun.key: difference.key} | defaults(noun.kind)
    return {name: value for name, value in entry.items() if value is not None and value != need_not_be_said.get(name)}


def defaults(kind: "type[msgspec.Struct]") -> dict[str, object]:
    """Return what the fields of an entry are where a document does not say."""
    names = kind.__struct_fields__
    return dict(zip(names[len(names) - len(kind.__struct_defaults__) :], kind.__struct_defaults__, strict=True))


def _word(value: str | bool | None) -> str:
    return NONE if value is None else str(value).lower() if isinstance(value, bool) else value
