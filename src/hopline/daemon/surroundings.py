"""The host around the datapath: what the watch reports, turned at once into the words that the program reads.

The generation is bumped before anything else is done about an event, since a cached answer may already be wrong.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable

from hopline.config import Interface, NextHop
from hopline.daemon.attachments import Attachments
from hopline.daemon.balance.balance import Balance
from hopline.daemon.datapath import Datapath
from hopline.daemon.operator import OperatorTables
from hopline.errors import HoplineError
from hopline.features.forward import Device
from hopline.kernel.netlink import neighbour, query
from hopline.kernel.netlink.features import all_features, device_features
from hopline.kernel.netlink.policy import Policy, PolicySnapshot
from hopline.kernel.netlink.types import (
    Batch,
    DeviceFeaturesChanged,
    Link,
    LinkChanged,
    LinkGone,
    LocalAddressesChanged,
    NeighbourChanged,
    NeighbourGone,
    NexthopChanged,
    Overflow,
    RouteChanged,
    RuleChanged,
)
from hopline.kernel.netlink.watch import Watch

log = logging.getLogger("hopline")

POLICY_EVERY_S = 5.0
RETRY_S = 1.0
FORWARDING_OFF = "forwarding is off"  # the one reason that bypass_policy does not override: the FIB would refuse too


class Surroundings:
    """Keeps devices, neighbours, local addresses and policy of the datapath as the host has them."""

    def __init__(self, datapath: Datapath, attachments: Attachments, tables: OperatorTables, balance: Balance) -> None:
        self.datapath = datapath
        self.attachments = attachments
        self.tables = tables
        self.balance = balance
        self.facts = tables.facts
        self.watch = Watch()
        self.policy: Policy | None = None
        self.snapshot: PolicySnapshot | None = None
        self.wanted: dict[str, Interface] = {}
        self.following = True  # events are turned into datapath changes as they come
        self.preferred: set[str] = set()  # devices that the intent names: the first to get a slot
        self.link_returned: Callable[[Link], Awaitable[None]] | None = None
        self.suspect_drift: Callable[[], None] = lambda: None
        self._policy_wanted = asyncio.Event()
        self._policy_lock = asyncio.Lock()
        self._policy_changes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Subscribe, then read everything once."""
        await self.watch.__aenter__()
        self.policy = Policy(self.watch.routes)
        self.resynchronise()

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        await self.watch.__aexit__(None, None, None)

    def links(self) -> list[Link]:
        """Return the devices that packets can come in by or leave through."""
        # a copy: other threads ask too
        return [link for link in list(self.watch.links.values()) if link.name != "lo"]

    def link_named(self, name: str) -> Link | None:
        """Return the device of this name, None if there is none."""
        return next((link for link in list(self.watch.links.values()) if link.name == name), None)

    def resynchronise(self) -> None:
        """Bring everything up to what the watch has read."""
        features = all_features()
        present = {link.index for link in self.links()}
        for index in set(self.attachments.slots) - present:
            self.attachments.forget(index)
        for link in sorted(self.links(), key=lambda link: link.name not in self.preferred):
            self.attachments.know(link, features.get(link.index) or device_features(link))
        self._set_local()
        self._gather_facts()
        self.balance.note_local(self.watch.local.addresses)
        for link in self.links():
            self._check_attached(link)

    def _set_local(self) -> bool:
        return self.datapath.set_local(self.watch.local.addresses | self.watch.local.prefixes)

    def repair_local(self) -> bool:
        """Make the local tables hold our own addresses again; return whether they did not."""
        return self._set_local()

    def repair_devices(self) -> int:
        """Make every device's row and redirect slot what they should be; return how many were not."""
        features = all_features()
        return sum(
            self.attachments.know(link, features.get(link.index) or device_features(link))
            for link in self.links()
            if link.index in self.attachments.slots
        )

    def _gather_facts(self) -> None:
        self.facts.devices = {
            link.name: Device(
                link.name, link.index, self.attachments.slots[link.index], link.mac, link.mtu, link.up
            )
            for link in self.links()
            if link.index in self.attachments.slots
        }  # fmt: skip
        self.facts.macs = {
            key: n.mac for key, n in self.watch.neighbours.items() if n.usable and n.mac and len(n.mac) == 6
        }
        self.gather_reach(self.tables.next_hops())

    def gather_reach(self, hops: Iterable[NextHop]) -> None:
        """Find by which device each `via` without a device is reached."""
        self.facts.reach = self.reaching({hop.via for hop in hops if hop.via and not hop.dev})

    def reaching(self, addresses: Collection[str]) -> dict[str, str]:
        """Return the device that each address is on link of; those that are no neighbour's are absent."""
        reach: dict[str, str] = {}
        # where there is nothing to ask no socket is opened: there may be no descriptor left for one
        for address, answer in query.routes_to(addresses) if addresses else ():
            link = self.watch.links.get(answer.index)
            if not answer.gateway and answer.type == "unicast" and link is not None and link.name != "lo":
                reach[address] = link.name
        return reach

    async def run(self) -> None:
        """Follow the kernel's events until cancelled."""
        async for batch in self.watch:
            if batch.stale:
                self.datapath.bump_generation()
            try:
                self.apply(batch)
            except HoplineError as error:
                log.warning("follow kernel events: %s: reading everything anew", error)
                await self._read_all_anew()
            if batch.stale:
                self.datapath.bump_generation()  # what was learned while the tables changed

    async def _read_all_anew(self) -> None:
        """Read until it works; nobody vouches for what was learned meanwhile."""
        self.following = False
        self.datapath.drop_lease()
        while not self.following:
            await asyncio.sleep(RETRY_S)
            try:
                self.watch.resync()
                self.resynchronise()
                self.tables.refresh()
                self.following = True
            except HoplineError as error:
                log.warning("read the host anew: %s", error)

    def apply(self, batch: Batch) -> None:
        """Turn one batch of events into datapath changes."""
        if batch.of(Overflow):
            self.resynchronise()
            self.tables.refresh()
        for event in batch.events:
            if isinstance(event, LinkGone):
                self.attachments.forget(event.link.index)
        changed = {e.link.index for e in batch.events if isinstance(e, LinkChanged)}
        changed |= {e.index for e in batch.events if isinstance(e, DeviceFeaturesChanged)}
        for link in self.links():
            if link.index in changed:
                self.attachments.know(link, device_features(link))
        if batch.of(LocalAddressesChanged):
            self._set_local()
            self.balance.note_local(self.watch.local.addresses)
            self.apply_policy()
        if batch.of(LinkGone, LinkChanged, RouteChanged, RuleChanged, NexthopChanged, LocalAddressesChanged):
            self._gather_facts()
            self.tables.refresh()
            self.balance.note_host()
        elif batch.of(NeighbourChanged, NeighbourGone):
            self._follow_neighbours(batch)
        for link in self.links():
            if link.index in changed:
                self._check_attached(link)
        if batch.policy:
            self._suspect_policy(batch)
        if batch.of(Overflow, LinkGone, LinkChanged):
            self.suspect_drift()

    def _follow_neighbours(self, batch: Batch) -> None:
        macs = dict(self.facts.macs)
        touched: set[str] = set()
        for event in batch.of(NeighbourChanged, NeighbourGone):
            n = event.neighbour  # type: ignore[attr-defined]
            touched.add(n.address)
            macs.pop((n.index, n.address), None)
            if isinstance(event, NeighbourChanged) and n.usable and n.mac and len(n.mac) == 6:
                macs[n.index, n.address] = n.mac
        self.facts.macs = macs
        self.tables.refresh(self.tables.following(touched))
        self.balance.note_neighbours(touched)

    def _check_attached(self, link: Link) -> None:
        """Attach a device that came (back) by its name; let go of one that was renamed or detached by somebody."""
        attachment = self.attachments.by_index.get(link.index)
        if attachment is not None and link.name not in self.wanted:
            self.attachments.detach(link.index)
        elif attachment is not None and not attachment.link.ifindex:
            self.attachments.drop(link.index)
            attachment = None
        if link.name in self.wanted and attachment is None and self.link_returned is not None:
            self._start(self.link_returned(link))

    def missing_programs(self) -> list[Link]:
        """Return the devices whose program somebody took off, or may be put on again: the kernel tells of neither.

        Asked every so often, and never while interfaces are being changed.
        """
        missing = [link for link in self.links() if link.name in self.wanted and self.attachments.missing(link.index)]
        for link in missing:
            if link.index in self.attachments.by_index:
                self.attachments.drop(link.index)
        return missing

    def detach_unwanted(self) -> int:
        """Take programs off devices that the intent does not name, such as one that would not go; return how many."""
        names = {index: link.name for index, link in list(self.watch.links.items())}
        unwanted = [index for index in list(self.attachments.by_index) if names.get(index) not in self.wanted]
        for index in unwanted:
            self.attachments.detach(index)
        return len(unwanted)

    def _start(self, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except HoplineError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("a fault of hopline's own")

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # policy

    def _suspect_policy(self, batch: Batch) -> None:
        # until the policy has been read, the kernel does it; not for routes alone, which change all the time
        if any(event.policy and not isinstance(event, RouteChanged) for event in batch.events):
            for index in list(self.attachments.by_index):
                self.attachments.set_learning(index, learn4=False, learn6=False, bypass=False)
            self.apply_policy(only_bypassed=True)
        self._policy_changes += 1
        self._policy_wanted.set()

    async def follow_policy(self) -> None:
        """Read the policy when it may have changed, and every few seconds; without an answer nothing is learned."""
        while True:
            # not everything notifies (legacy iptables does not), so look every few seconds too
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._policy_wanted.wait(), POLICY_EVERY_S)
            self._policy_wanted.clear()
            try:
                await self.read_policy()
            except HoplineError as error:
                log.warning("read policy: %s: nothing is learned until it can be read", error)
                self.snapshot = None
                self.apply_policy()
                await asyncio.sleep(RETRY_S)
                self._policy_wanted.set()

    async def read_policy(self) -> None:
        """Read what forbids learning and say so to the program."""
        assert self.policy is not None
        async with self._policy_lock:
            while True:
                changes = self._policy_changes
                snapshot = await asyncio.to_thread(self.policy.snapshot)
                if changes == self._policy_changes:
                    break  # else it changed meanwhile: read again before anything is allowed
            self.snapshot = snapshot
            self.apply_policy()

    def forbids(self, index: int, family: int) -> list[str]:
        """Return what keeps a device from learning; [] where nothing does."""
        if self.snapshot is None:
            return ["policy has not been read yet"]
        # with such a route the kernel drops every packet whose source is in it (fib_validate_source), as its own
        own = [p for p in sorted(self.watch.local.prefixes) if family == 4 and ":" not in p and p != "127.0.0.0/8"]
        return self.snapshot.forbids(index, family) + [f"local prefix {prefix}" for prefix in own]

    def apply_policy(self, only_bypassed: bool = False) -> None:
        """Write each interface's right to use what is learned."""
        for index in list(self.attachments.by_index):
            link = self.watch.links.get(index)
            interface = self.wanted.get(link.name) if link else None
            bypass = interface is not None and interface.bypass_policy
            if only_bypassed and not bypass:
                continue
            rights = [self._may_learn(index, family, bypass) for family in (4, 6)]
            if self.attachments.set_learning(index, learn4=rights[0], learn6=rights[1], bypass=bypass):
                log.info("%s: learning ipv4 %s, ipv6 %s", link.name if link else index, *rights)

    def _may_learn(self, index: int, family: int, bypass: bool) -> bool:
        reasons = self.forbids(index, family)
        if bypass:
            reasons = [reason for reason in reasons if FORWARDING_OFF in reason]
        return not reasons

    def know_the_rest(self, first: str = "") -> None:
        """Give devices that found every slot taken another chance, `first` first; called every so often."""
        known: list[Link] = []
        rest = [link for link in self.links() if link.index not in self.attachments.slots]
        wanted = {*self.preferred, *self.wanted}
        for link in sorted(rest, key=lambda link: (link.name != first, link.name not in wanted)):
            if not self.attachments.has_free_slot():
                break
            self.attachments.know(link, device_features(link))
            known.append(link)
        if known:
            self._gather_facts()
            self.tables.refresh()
            self.balance.note_host()
        for link in known:
            self._check_attached(link)

    # neighbours

    def keep_alive(self, learned: list[tuple[int, str]]) -> None:
        """Have the kernel probe the neighbours in use: packets that XDP forwards never make it."""
        wanted = set(learned) | self.balance.neighbours()
        for hop in self.tables.next_hops():
            if (key := self._neighbour_of(hop)) is not None:
                wanted.add(key)
        neighbour.keep_alive(sorted(wanted))

    def resolve(self, hops: list[NextHop]) -> None:
        """Have the kernel find the MACs of next hops that are followed."""
        for hop in hops:
            if (key := self._neighbour_of(hop)) is not None and key not in self.facts.macs:
                try:
                    neighbour.resolve(*key)
                except HoplineError as error:
                    log.info("%s", error)

    def _neighbour_of(self, hop: NextHop) -> tuple[int, str] | None:
        name = hop.dev or self.facts.reach.get(hop.via or "")
        device = self.facts.devices.get(name) if name else None
        return (device.index, hop.via) if hop.via and device and device.usable else None
