"""The intent as a whole: entries by noun and key, what differs between two intents, and how differences compose. Pure.

A noun is a table of the document, a resource of the API and a table of the store. Its entries are told apart by one
field, the key, or by a text made of several; the rest of an entry is its value. What is added to NOUNS is read, stored,
compared, applied, rolled back and exported like the rest; only what it means (features/) and how it is carried out
(daemon/) is its own.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hopline.config import (
    Decap,
    Forward,
    Intent,
    Interface,
    NextHop,
    Service,
    canonical_decap_key,
    canonical_destination,
    checked_decap,
    checked_forward,
    checked_interface,
    checked_service,
    decaps_together,
    device_name,
    doubtful_destinations,
    service_name,
    services_together,
)
from hopline.config.checks import Together


def _nothing_together(entries: Mapping[str, Any], new: Collection[str]) -> Together:
    return iter(())


@dataclass(frozen=True, slots=True)
class Noun:
    """One noun: `kind` is an entry as the document has it, `value` what it says about its key."""

    name: str
    key: str  # the field that tells entries apart, or the first of several
    kind: type[msgspec.Struct]
    value: type[msgspec.Struct]
    canonical: Callable[[str], str]  # a key in its one spelling, or InvalidInput
    checked: Callable[[Any], Any]  # the entry in canonical spelling, or InvalidInput
    value_of: Callable[[Any], Any]
    entry: Callable[[str, Any], Any]  # key and value → the entry
    # of many keys those that `canonical` has to look at: the others are in their one spelling
    doubtful: Callable[[Sequence[str]], Sequence[str]] = list
    # what is wrong with those of some keys beside all that there are, by key
    together: Callable[[Mapping[str, Any], Collection[str]], Together] = _nothing_together
    composed: Callable[[Any], str] | None = None  # an entry → its key, where several fields tell entries apart

    @property
    def has_together(self) -> bool:
        """Whether anything is asked of its entries together."""
        return self.together is not _nothing_together

    @property
    def shared(self) -> bool:
        """Whether a value says nothing of its key: it may be that of many, and is then one object for them all."""
        return self.key not in self.value.__struct_fields__

    def key_of(self, entry: Any) -> str:
        """Return what tells an entry apart."""
        key: str = getattr(entry, self.key) if self.composed is None else self.composed(entry)
        return key


# in the order in which a document shows them
NOUNS: tuple[Noun, ...] = (
    Noun(
        "interface",
        "name",
        Interface,
        Interface,
        device_name,
        checked_interface,
        lambda kept: kept,
        lambda _, kept: kept,
    ),
    Noun(
        "forward",
        "to",
        Forward,
        NextHop,
        canonical_destination,
        checked_forward,
        NextHop.of,
        lambda to, hop: hop.entry(to),
        doubtful_destinations,
    ),
    Noun(
        "service",
        "name",
        Service,
        Service,
        service_name,
        checked_service,
        lambda kept: kept,
        lambda _, kept: kept,
        together=services_together,
    ),
    Noun(
        "decap",
        "local",
        Decap,
        Decap,
        canonical_decap_key,
        checked_decap,
        lambda kept: kept,
        lambda _, kept: kept,
        together=decaps_together,
        composed=lambda entry: entry.key,
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """An intent, by noun: key → value. A noun that is absent has no entries."""

    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Wanted) and _said(self.entries) == _said(other.entries)

    __hash__ = None  # type: ignore[assignment]

    def of(self, noun: str) -> Mapping[str, Any]:
        """Return the entries of one noun."""
        return self.entries.get(noun, {})


def _said(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {noun: values for noun, values in entries.items() if values}


@dataclass(frozen=True, slots=True)
class Delta:
    """What changes of one noun: `before` has what is changed or removed, `after` what is added or changed."""

    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.before or self.after)

    @property
    def added(self) -> list[str]:
        """The keys that are new."""
        return [key for key in self.after if key not in self.before]

    @property
    def changed(self) -> list[str]:
        """The keys whose value changes."""
        return [key for key in self.after if key in self.before]

    @property
    def removed(self) -> list[str]:
        """The keys that go."""
        return [key for key in self.before if key not in self.after]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the intent, by noun; nouns that do not change are absent."""

    deltas: Mapping[str, Delta] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.deltas.values())

    def of(self, noun: str) -> Delta:
        """Return what changes of one noun."""
        return self.deltas.get(noun, Delta())

    def inverse(self) -> "Change":
        """Return the change that takes this one back."""
        return Change({noun: Delta(delta.after, delta.before) for noun, delta in self.deltas.items()})

    def then(self, later: "Change") -> "Change":
        """Return the one change that does both; what comes out as it was before is no part of it."""
        nouns = dict.fromkeys([*self.deltas, *later.deltas])
        return Change({noun: delta for noun in nouns if (delta := _composed(self.of(noun), later.of(noun)))})


def _composed(first: Delta, second: Delta) -> Delta:
    touched = dict.fromkeys([*first.before, *first.after, *second.before, *second.after])
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for key in touched:
        whose = first if key in first.before or key in first.after else second
        old = whose.before.get(key)
        new = (second if key in second.before or key in second.after else first).after.get(key)
        if old == new:
            continue
        if old is not None:
            before[key] = old
        if new is not None:
            after[key] = new
    return Delta(before, after)


def difference(have: Wanted, want: Wanted, merge: bool = False) -> Change:
    """Return what turns `have` into `want`; with `merge` what `want` does not name stays."""
    deltas: dict[str, Delta] = {}
    for noun in NOUNS:
        old, new = have.of(noun.name), want.of(noun.name)
        after = {key: value for key, value in new.items() if old.get(key) != value} if old else new
        before = {key: old[key] for key in after if key in old}
        if not merge:
            before |= {key: value for key, value in old.items() if key not in new}
        if before or after:
            deltas[noun.name] = Delta(before, after)
    return Change(deltas)


def one_entry(noun: str, key: str, before: object | None, after: object | None) -> Change:
    """Return the change of one entry; None where it is not."""
    if before == after:
        return Change()
    return Change({noun: Delta({} if before is None else {key: before}, {} if after is None else {key: after})})


def wanted_of(intent: Intent) -> Wanted:
    """Return a checked document's entries by key."""
    return Wanted(
        {
            noun.name: {noun.key_of(entry): noun.value_of(entry) for entry in getattr(intent, noun.name)}
            for noun in NOUNS
        }
    )


def document_of(wanted: Wanted) -> Intent:
    """Return the document that says this, entries in the order they are in."""
    return Intent(
        **{noun.name: tuple(noun.entry(key, value) for key, value in wanted.of(noun.name).items()) for noun in NOUNS}
    )
