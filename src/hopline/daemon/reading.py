"""All that a daemon tells of itself at once: what its event loop owns, and what the kernel's maps hold."""

import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from hopline.daemon.attachments import Attachment
from hopline.daemon.counters import CacheFill, SlotCounters, read_caches, read_counters
from hopline.daemon.datapath import LEASE_S, Datapath
from hopline.daemon.meters import Meters
from hopline.errors import KernelError

if TYPE_CHECKING:
    from hopline.daemon.service import Service


@dataclass(frozen=True, slots=True)
class InterfaceReading:
    """One interface of the intent; `slot` is None while no device of this name has one."""

    name: str
    slot: int | None
    attached: bool
    learning: dict[str, bool]  # by family
    problem: str | None = None  # why it is not attached


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the event loop owns."""

    instance: str
    version: str
    uptime_s: float
    generation: int
    lease_age_s: float | None  # since it was last extended; None where nobody vouches
    following: bool  # events of the host are turned into changes of the datapath as they come
    interfaces: list[InterfaceReading]
    operator_entries: int
    store_bytes: int
    meters: Meters

    @property
    def lease_held(self) -> bool:
        """Whether the program may use what was learned."""
        return self.lease_age_s is not None and self.lease_age_s < LEASE_S

    def faults(self) -> list[str]:
        """Return what is not as it should be, a sentence each."""
        found = []
        if not self.following:
            found.append("the host's events are not followed: it is tried again every second")
        if not self.lease_held:
            since = "" if self.lease_age_s is None else f" for {self.lease_age_s:.1f} s"
            found.append(f"the lease was not extended{since}: what was learned goes to the kernel")
        for interface in self.interfaces:
            if not interface.attached:
                found.append(f"{interface.name} is not attached: {interface.problem}")
        return found


@dataclass(frozen=True, slots=True)
class Maps:
    """What the kernel counted and cached."""

    counters: dict[int, SlotCounters]  # by slot
    hits: dict[int, int]  # of the cache, by slot
    caches: dict[str, CacheFill]  # by family


class HitCounter:
    """Hits by slot that never go back: a packet under way while they are read may hide one that was told before."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[int, int]] = {}  # by slot: packets looked up, hits

    def update(self, counters: dict[int, SlotCounters]) -> dict[int, int]:
        """Return the hits of each slot; they begin anew where the slot's packets did."""
        hits = {}
        for slot, now in counters.items():
            looked_up, told = self._told.get(slot, (0, 0))
            hits[slot] = max(now.hits, told) if now.looked_up >= looked_up else now.hits
        self._told = {slot: (now.looked_up, hits[slot]) for slot, now in counters.items()}
        return hits


def read_host(service: "Service") -> Host:
    """Return what the event loop owns: to be called there."""
    extended, now = service.datapath.lease_extended, time.monotonic()
    return Host(
        instance=service.options.instance,
        version=version("hopline"),
        uptime_s=now - service.began,
        generation=service.datapath.generation,
        lease_age_s=None if extended is None else now - extended,
        following=service.surroundings.following,
        interfaces=_interfaces(service),
        operator_entries=len(service.tables.entries),
        store_bytes=service.store.size,
        meters=service.meters.copy(),
    )


def _interfaces(service: "Service") -> list[InterfaceReading]:
    kept, attachments = service.kept_interfaces, service.attachments
    links = {link.name: link for link in service.surroundings.links()}
    found = []
    for name in sorted(kept.wanted):
        link, problem = links.get(name), kept.problems.get(name)
        if link is None:
            nothing = {"ipv4": False, "ipv6": False}
            found.append(InterfaceReading(name, None, False, nothing, problem or "no such device"))
            continue
        attached = _meets_packets(attachments.by_index.get(link.index))
        if not attached and problem is None:
            problem = "somebody detached it: it is attached again in a moment"
        learn4, learn6 = attachments.learning(link.index)
        learning = {"ipv4": attached and learn4, "ipv6": attached and learn6}
        found.append(InterfaceReading(name, attachments.slots.get(link.index), attached, learning, problem))
    return found


def _meets_packets(attachment: Attachment | None) -> bool:
    """Return whether the pipeline is on the device: somebody may have detached its link."""
    if attachment is None:
        return False
    try:
        return attachment.link.ifindex != 0
    except KernelError:
        return False  # closed just now, by a change that detaches it


def read_maps(datapath: Datapath, hits: HitCounter) -> Maps:
    """Return what the maps hold: for a thread, and for one at a time."""
    counters = read_counters(datapath)
    return Maps(counters, hits.update(counters), read_caches(datapath))
