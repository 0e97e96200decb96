"""The noun `forward`: where packets to a destination go next, by the operator's word."""

from collections.abc import Iterable
from sys import intern
from typing import Literal

import msgspec

from hopline.config.checks import FieldChecks, check_fields, refuse
from hopline.errors import InvalidInput, Problems
from hopline.spelling import canonical_address, canonical_destination, canonical_mac, canonical_via, device_name, shown

Origin = Literal["operator", "learned"]

_MOST_SPELLINGS = 65_536  # of next hops that NextHops remembers, so that a million different ones do not fill memory


class Forward(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operator entry: where packets to `to` go next; `dev` and `dst_mac`, or `via`, never both."""

    to: str
    dev: str | None = None
    src_mac: str | None = None
    dst_mac: str | None = None
    via: str | None = None


class NextHop(msgspec.Struct, frozen=True):
    """A next hop as the operator named it: what an entry says about its destination. Entries may share one."""

    dev: str | None = None
    src_mac: str | None = None
    dst_mac: str | None = None
    via: str | None = None

    @classmethod
    def of(cls, forward: Forward) -> "NextHop":
        """Return the next hop an entry names."""
        return cls(forward.dev, forward.src_mac, forward.dst_mac, forward.via)

    def entry(self, to: str) -> Forward:
        """Return the operator's entry for `to` by this next hop."""
        return Forward(to=to, dev=self.dev, src_mac=self.src_mac, dst_mac=self.dst_mac, via=self.via)


FORWARD_FIELDS: FieldChecks = {
    "to": canonical_destination,
    "dev": device_name,
    "src_mac": canonical_mac,
    "dst_mac": canonical_mac,
    "via": canonical_address,
}


def checked_forward(forward: Forward, where: str = "") -> Forward:
    """Return the entry in canonical spelling; InvalidInput or InvalidInputs name what is wrong, after `where`."""
    try:
        return _right_forward(forward)
    except InvalidInput as error:
        first = error
    # slower, and only now: everything that is wrong, not the first alone
    problems = Problems()
    check_fields(forward, FORWARD_FIELDS, problems)
    _check_shape(forward, problems)
    if not problems.count:
        problems.add(first)
    return refuse(problems, where)


class NextHops:
    """Next hops that were found right, kept so that a million entries check, and hold, each of them once."""

    def __init__(self) -> None:
        self._right: dict[tuple[str | None, str | None, str | None, str | None, bool], NextHop] = {}
        self._shared: dict[NextHop, NextHop] = {}

    def checked(self, forward: Forward) -> tuple[str, NextHop]:
        """Return an entry's destination and next hop in canonical spelling, or raise as checked_forward does."""
        to = forward.to
        # whether `via` will do depends on the destination's family too
        named = (forward.dev, forward.src_mac, forward.dst_mac, forward.via, ":" in to)
        hop = self._right.get(named)
        if hop is None:
            entry = checked_forward(forward)
            hop = self._one(entry)
            if len(self._right) == _MOST_SPELLINGS:
                self._right.clear()
            self._right[named] = hop
            return entry.to, hop
        try:
            return canonical_destination(to), hop
        except InvalidInput:
            return checked_forward(forward).to, hop

    def _one(self, entry: Forward) -> NextHop:
        dev, src_mac, dst_mac, via = (
            None if text is None else intern(text) for text in (entry.dev, entry.src_mac, entry.dst_mac, entry.via)
        )
        hop = NextHop(dev, src_mac, dst_mac, via)
        return self._shared.setdefault(hop, hop)


def checked_forwards(forwards: Iterable[Forward]) -> list[Forward]:
    """Return all entries in canonical spelling; InvalidInput or InvalidInputs name what is wrong, and where.

    A destination that occurs twice is refused with both places.
    """
    problems = Problems()
    checked = _checked_forwards(forwards, problems)
    problems.refuse()
    return checked


def _checked_forwards(forwards: Iterable[Forward], problems: Problems) -> list[Forward]:
    hops = NextHops()
    checked: list[Forward] = []
    places: dict[str, int] = {}
    for place, forward in enumerate(forwards):
        try:
            to, hop = hops.checked(forward)
            first = places.setdefault(to, place)
            if first != place:
                raise InvalidInput("to", f"{to} is also forward[{first}]", "give each destination once")
        except InvalidInput as error:
            problems.add(error.within(f"forward[{place}]."))
            continue
        checked.append(hop.entry(to))
    return checked


def _check_shape(forward: Forward, problems: Problems) -> None:
    """Note the fields that are missing, or that do not go together."""
    for name in ("dev", "dst_mac") if forward.via is None else ():
        if getattr(forward, name) is None:
            problems.add(InvalidInput(name, f"missing for {shown(forward.to)}", "give dev and dst_mac, or via"))
    for name in ("src_mac", "dst_mac") if forward.via is not None else ():
        if getattr(forward, name) is not None:
            hint = "via finds the MAC addresses itself: give via, or dev and dst_mac"
            problems.add(InvalidInput(name, f"given together with via for {shown(forward.to)}", hint))


def _right_forward(forward: Forward) -> Forward:
    """Return the entry in canonical spelling; the first thing that is wrong is raised."""
    to = canonical_destination(forward.to)
    dev = None if forward.dev is None else device_name(forward.dev)
    if forward.via is not None:
        via = canonical_via(forward.via, to, dev)
        if forward.src_mac is not None or forward.dst_mac is not None:
            raise InvalidInput("via", "given together with MAC addresses")
        return Forward(to=to, dev=dev, via=via)
    if dev is None or forward.dst_mac is None:
        raise InvalidInput("dev", "missing")
    dst_mac = canonical_mac(forward.dst_mac)
    src_mac = None if forward.src_mac is None else canonical_mac(forward.src_mac, "src_mac")
    return Forward(to=to, dev=dev, src_mac=src_mac, dst_mac=dst_mac)
