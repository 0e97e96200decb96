"""What a change of the intent adds, changes and removes, in lines that a person reads."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import click

from hopline.cli.output import NONE

if TYPE_CHECKING:
    import msgspec

    from hopline.daemon.protocol import Applied, Difference
    from hopline.intent import Noun

MOST_LINES = 100  # of each kind
_MOST_MEMBERS = 8  # of a list in an entry, such as a service's backends
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


def brief(kind: "type[msgspec.Struct]", entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry as JSON has it, without what is as it would be if a document did not say."""
    unsaid = defaults(kind)
    found = {name: value for name, value in entry.items() if value is not None and value != unsaid.get(name)}
    for name, value in found.items():
        if isinstance(value, list | tuple):
            found[name] = [brief(_inner(kind, name), one) for one in value]
    return found


def defaults(kind: "type[msgspec.Struct]") -> dict[str, Any]:
    """Return what the fields of an entry are, as JSON has them, where a document does not say."""
    names = kind.__struct_encode_fields__
    values = zip(names[len(names) - len(kind.__struct_defaults__) :], kind.__struct_defaults__, strict=True)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


def _inner(kind: "type[msgspec.Struct]", name: str) -> "type[msgspec.Struct]":
    """Return what a field that is a list has in it."""
    found: type[msgspec.Struct] = get_args(get_type_hints(kind)[name])[0]
    return found


def _entry(difference: "Difference") -> str:
    """Return noun, key and fields: all that are said of what comes or goes, old and new of what changes."""
    before, after = difference.before, difference.after
    if before is None or after is None:
        said = _said(difference, after or before or {})
        fields = [f"{name} {_word(value)}" for name, value in said.items()]
    else:
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        fields = [f"{name} {_change(_noun(difference).kind, name, before, after)}" for name in names]
    return "  ".join([f"{difference.noun} {difference.key}", *fields])


def _said(difference: "Difference", entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that say something: neither what the key says, which is shown already, nor defaults."""
    noun = _noun(difference)
    key = difference.key.split() if noun.composed is not None else []
    said = brief(noun.kind, entry)
    return {name: value for name, value in said.items() if name != noun.key and value not in key}


def _noun(difference: "Difference") -> "Noun":
    from hopline.intent import NOUNS

    return next(noun for noun in NOUNS if noun.name == difference.noun)


def _change(kind: "type[msgspec.Struct]", name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the old and the new; of a list what comes, changes and goes in it, of which each has its key first."""
    if not isinstance(before.get(name, after.get(name)), list | tuple):
        return f"{_word(before.get(name))} → {_word(after.get(name))}"
    old, new = ({next(iter(one.values())): one for one in side.get(name) or ()} for side in (before, after))
    inner = _inner(kind, name)
    words = [f"+ {_member(brief(inner, one))}" for key, one in new.items() if key not in old]
    for key, one in new.items():
        names = [each for each in one if key in old and old[key].get(each) != one[each]]
        if names:
            words.append(f"~ {key} " + ", ".join(f"{n} {_word(old[key].get(n))} → {_word(one[n])}" for n in names))
    return _cut(words + [f"- {key}" for key in old if key not in new])


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return _cut([_member(one) for one in value])
    return NONE if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _member(one: Mapping[str, Any]) -> str:
    """Return one of a list: its key, and what is said beside."""
    key, *rest = one.items()
    more = ", ".join(f"{name} {_word(value)}" for name, value in rest)
    return f"{key[1]} ({more})" if more else str(key[1])


def _cut(words: list[str]) -> str:
    shown = words if len(words) <= _MOST_MEMBERS else [*words[:_MOST_MEMBERS], f"… {len(words) - _MOST_MEMBERS} more"]
    return ", ".join(shown)
