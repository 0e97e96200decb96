"""What of an intent this host can carry out: the values are right in themselves, but is the device here?

Checked before anything is planned, for what a change adds or changes. What was possible once is not checked again: an
interface whose device is gone waits for it, and an entry's packets go to the kernel meanwhile.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from hopline.config import NextHop, Service
from hopline.daemon.balance.balance import Balance
from hopline.daemon.balance.possible import NO_REDIRECT, PossibleServices
from hopline.daemon.surroundings import Surroundings
from hopline.errors import MOST_PROBLEMS, InvalidInput, InvalidInputs, Refused
from hopline.intent import NOUNS, Change, Noun, Wanted
from hopline.kernel.netlink.types import Link

HOPS_AT_ONCE = 100  # each may ask the kernel for a route: some 5 ms, after which others have their turn
NOTHING = Wanted()

Named = Callable[[str, str, str], str]  # noun, key and field → what the operator calls the field


def plainly(noun: str, key: str, field: str) -> str:
    """Name a field of the one entry that was given."""
    return "interface" if (noun, field) == ("interface", "name") else field


def placed(entries: Mapping[str, Mapping[str, object]]) -> Named:
    """Name fields by the entry's place in a document or list: forward[3].dev."""

    def named(noun: str, key: str, field: str) -> str:
        return f"{noun}[{list(entries[noun]).index(key)}].{field}"

    return named


def _beside_others(noun: Noun, change: Change, named: Named, have: Wanted) -> list[InvalidInput]:
    """Return what is wrong with entries that come or change beside those that stay."""
    delta = change.of(noun.name)
    if not delta.after or not noun.has_together:
        return []
    stay = {key: value for key, value in have.of(noun.name).items() if key not in delta.before}
    found = noun.together({**stay, **delta.after}, delta.after)
    return [InvalidInput(named(noun.name, key, e.field), e.detail, e.hint, key=key) for key, e in found]


class Possible:
    """Asks the host about a change."""

    def __init__(self, surroundings: Surroundings, balance: Balance, most_next_hops: int) -> None:
        self._surroundings = surroundings
        self._balance = balance
        self._most_next_hops = most_next_hops

    async def check(self, change: Change, named: Named = plainly, have: Wanted = NOTHING) -> dict[str, str]:
        """InvalidInput, or InvalidInputs where several things are impossible; `named` says what fields are called.

        `have` is the intent that changes: what two of its entries cannot both have is refused here too.

        Refused where there are more next hops than fit. Return the device that each `via` without one is reached by.
        May be asked at any time: it changes nothing.
        """
        problems: list[InvalidInput] = []
        hops = list(await asyncio.to_thread(set, change.of("forward").after.values()))
        if len(hops) > self._most_next_hops:
            there = f"{len(hops):,} next hops are named, and there is room for {self._most_next_hops:,}"
            raise Refused(f"{there}: share next hops among entries")
        reach = await self.reaching(hops)
        for name in change.of("interface").added:
            try:
                self.interface(name)
            except InvalidInput as error:
                problems.append(InvalidInput(named("interface", name, error.field), error.detail, error.hint, key=name))
        for noun in NOUNS:
            problems += _beside_others(noun, change, named, have)
        services = change.of("service").after
        for key, wrong in await asyncio.to_thread(lambda: list(self._of_services().wrong(services))):
            problems.append(InvalidInput(named("service", key, wrong.field), wrong.detail, wrong.hint, key=key))
        bad = await asyncio.to_thread(self._bad, hops, reach)
        count = len(problems) + self._forwards(change.of("forward").after, bad, named, problems)
        if count == 1:
            raise problems[0]
        if problems:
            raise InvalidInputs(problems, count)
        return reach

    def _of_services(self) -> PossibleServices:
        watch = self._surroundings.watch
        return PossibleServices(self._balance, dict(watch.links), watch.local.addresses)

    async def beware(self, service: Service, addresses: Collection[str] | None = None) -> list[str]:
        """Return what to beware of with a service's backends, all of them unless told which."""
        return await asyncio.to_thread(self._of_services().beware, service, addresses)

    async def reaching(self, hops: Sequence[NextHop]) -> dict[str, str]:
        """Return the device that each `via` without one is reached by; others may act in between."""
        reach: dict[str, str] = {}
        for start in range(0, len(hops), HOPS_AT_ONCE):
            some = hops[start : start + HOPS_AT_ONCE]
            reach |= self._surroundings.reaching({hop.via for hop in some if hop.via and not hop.dev})
            await asyncio.sleep(0)
        return reach

    def _bad(self, hops: Iterable[NextHop], reach: Mapping[str, str]) -> dict[NextHop, InvalidInput]:
        """Return what is wrong with each next hop that cannot be; each is looked at once, however many share it."""
        bad: dict[NextHop, InvalidInput] = {}
        for hop in hops:
            try:
                self.next_hop(hop, reach)
            except InvalidInput as error:
                bad[hop] = error
        return bad

    def _forwards(
        self,
        entries: Mapping[str, NextHop],
        bad: Mapping[NextHop, InvalidInput],
        named: Named,
        problems: list[InvalidInput],
    ) -> int:
        """Add the first of the entries that are impossible to `problems`; return how many are."""
        own = [to for to in self._surroundings.watch.local.addresses if to in entries]
        wrong = {to: InvalidInput("to", f"{to} is this host's own address", "its packets stay here") for to in own}
        if bad:
            wrong |= {to: bad[hop] for to, hop in entries.items() if hop in bad and to not in wrong}
        for to, found in list(wrong.items())[: MOST_PROBLEMS - len(problems)]:
            problems.append(InvalidInput(named("forward", to, found.field), found.detail, found.hint, key=to))
        return len(wrong)

    def interface(self, name: str) -> Link:
        """Return the device of an interface to be; InvalidInput where there is none that can be one."""
        link = self._surroundings.link_named(name)
        if link is None:
            raise InvalidInput("name", f"{name} is no device here", "`ip link` lists them")
        if not link.ethernet or link.name == "lo":
            raise InvalidInput("name", f"{name} is not an Ethernet device", "name one that is")
        return link

    def next_hop(self, hop: NextHop, reach: Mapping[str, str]) -> None:
        """Refuse a next hop that no device of this host leads to; `reach` says which leads to a `via`."""
        name = hop.dev
        if hop.via in self._surroundings.watch.local.addresses:
            raise InvalidInput("via", f"{hop.via} is this host's own address", "give the neighbour's")
        if name is None and hop.via is not None:
            name = reach.get(hop.via)
            if name is None:
                raise InvalidInput("via", f"{hop.via} is on link of no device", "give a neighbour, or --dev too")
        field = "dev" if hop.dev is not None else "via"
        link = self._surroundings.link_named(name or "")
        if link is None or link.name == "lo":
            raise InvalidInput(field, f"{name} is no device here", "`ip link` lists them")
        if not link.ethernet or link.kind in NO_REDIRECT:
            what = link.kind or "not an Ethernet device"
            raise InvalidInput(field, f"{name} is {what}, which takes no redirect", "name the device below")
