"""Services, backends and decaps as people are shown them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hopline.config import Service
from hopline.daemon.balance.balance import Balance
from hopline.daemon.balance.served import Member, Served, totals
from hopline.daemon.protocol import BackendRow, DecapRow, DrainState, FlowState, RingState, ServiceRow
from hopline.daemon.protocol.balance import BackendState
from hopline.features import slots
from hopline.features.balance import TICKS_PER_S, asked_for, text_of
from hopline.features.forward import word_mac

PART = 1 << 17  # ways of the flow table at a time
NO_INTERFACE = "no interface is attached: `hopline interface add DEV` for the device that clients come in by"


class HealthRows(Protocol):
    """What is shown of a backend's checks."""

    @property
    def state(self) -> bool | None:
        """Up, down, or not known."""

    @property
    def text(self) -> str:
        """What the last one found."""


Checks = Mapping[str, HealthRows]  # by backend


@dataclass
class Reading:
    """What was read at once for all services: per backend row, and per service row; None where it was not asked for."""

    counts: NDArray[np.uint64] | None = None  # packets, bytes, connections
    flows: NDArray[np.int64] | None = None
    memory: NDArray[Any] | None = None  # struct flow_counter


class ServiceRows:
    """Answers of the read-only kind; asked in a thread."""

    def __init__(self, balance: Balance) -> None:
        self._balance = balance
        self._balancer = balance.balancer

    def rows(
        self, names: list[str], checks: Mapping[str, Checks], *, stats: bool, flows: bool, ring: bool, attached: bool
    ) -> list[ServiceRow]:
        """Return services of the intent by their names."""
        reading = self._read(stats, flows, names)
        rows = (self._row(name, checks.get(name, {}), reading, ring, attached) for name in names)
        return [row for row in rows if row is not None]

    def _read(self, stats: bool, flows: bool, names: list[str]) -> Reading:
        maps = self._balance.datapath.maps
        reading = Reading()
        if stats:
            reading.counts = totals(maps["backend_count"].items()[1])
        if flows:
            reading.flows = self.remembered()
            reading.memory = maps["flow_count"].sums()
        return reading

    def remembered(self, since: int | None = None) -> NDArray[np.int64]:
        """Return how many flows the table has of each row of backends; with `since`, those seen in that many ticks."""
        with self._balancer.lock:
            maps = self._balancer.maps
            found = np.zeros(len(maps.backends), np.int64)
            base, ways, clock = maps.services["backends"].copy(), maps.flows["ways"].reshape(-1)["word"], maps.clock
        for first in range(0, len(ways), PART):
            words = np.ascontiguousarray(ways[first : first + PART])
            words = words[words != 0]
            if since is not None:
                words = words[clock - (words >> np.uint64(32)).astype(np.int64) <= since]
            services = (words >> np.uint64(16) & np.uint64(0xFFFF)).astype(np.intp)
            known = services < len(base)
            rows = base[services[known]] + (words[known] & np.uint64(slots.NUMBERS - 1)).astype(np.intp)
            found += np.bincount(rows[rows < len(found)], minlength=len(found))
        return found

    def _row(self, name: str, checks: Checks, reading: Reading, ring: bool, attached: bool) -> ServiceRow | None:
        balance = self._balance
        service = balance.wanted.get(name)
        if service is None:
            return None  # it went away meanwhile
        problems = [] if attached else [NO_INTERFACE]
        if name in balance.problems:
            problems.append(balance.problems[name])
        with self._balancer.lock:
            served = self._balancer.by_name.get(name)
            if served is None:
                return ServiceRow(
                    service=service, vip_local=service.vip in self._balancer.vips.local, problems=problems
                )
            words = served.words.copy() if ring else None
            backends = self._backends(served, checks, reading, words)
            problems += _problems(served, backends)
            return ServiceRow(
                service=service,
                vip_local=service.vip in self._balancer.vips.local,
                ring=None if words is None else _ring(words, served),
                flows=_flows(served, reading),
                backends=backends,
                problems=problems,
            )

    def _backends(
        self, served: Served, checks: Checks, reading: Reading, words: NDArray[np.uint32] | None
    ) -> list[BackendRow]:
        shares = None if words is None or not served.ringed else slots.shares(words)
        counts = None if reading.counts is None else reading.counts[served.base : served.base + served.room]
        if counts is not None and served.carried is not None:
            counts = counts + served.carried
        order = [*(b.address for b in served.service.backend), *(a for a, m in served.members.items() if m.leaving)]
        rows = []
        for address in order:
            member, number = served.members[address], served.numbers.holders[address]
            state, reason = self.state_of(served, member, checks.get(address))
            dev, next_hop, mac = self._way(member)
            count = None if counts is None else counts[number].tolist()
            rows.append(
                BackendRow(
                    address=address,
                    weight=member.backend.weight,
                    state=state,
                    slots=None if shares is None else int(shares[number]),
                    share=None if shares is None else round(int(shares[number]) / served.slots, 6),
                    reason=reason,
                    dev=dev,
                    next_hop=next_hop,
                    mac=mac,
                    packets=None if count is None else count[0],
                    bytes=None if count is None else count[1],
                    connections=None if count is None else count[2],
                    remembered=None if reading.flows is None else int(reading.flows[served.base + number]),
                )
            )
        return rows

    def _way(self, member: Member) -> tuple[str | None, str | None, str | None]:
        held = self._balancer.hops.hops.contents.get(member.hop)
        if held is None:
            return member.backend.dev, member.backend.via, None
        link = self._balancer.links.get(held.ifindex)
        next_hop = text_of(held.family, held.next_hop) if held.family else None
        mac = word_mac(held.destination) if held.state == "READY" else None
        return (link.name if link else member.backend.dev), next_hop, mac

    def state_of(self, served: Served, member: Member, check: HealthRows | None) -> tuple[BackendState, str]:
        """Return a backend's state, and why it is that or what its last check found."""
        found = check.text if check is not None else ""
        if member.leaving:
            left = (member.leaving - served.maps.clock) / TICKS_PER_S
            return "leaving", f"removed: it keeps its flows for another {max(left, 0):.0f} s"
        if not member.backend.share:
            return "draining", "it takes no new flow" if member.backend.weight else "its weight is 0"
        checked = served.service.check != "none"
        if checked and member.healthy is False:
            return "down", found
        if not member.resolved(time.monotonic()):
            return "unresolved", self._unresolved(member)
        if not checked:
            return "unchecked", ""
        return "up", found or "not checked yet"

    def _unresolved(self, member: Member) -> str:
        held = self._balancer.hops.hops.contents.get(member.hop)
        if held is None:
            asked = asked_for(member.backend)
            if self._balancer.hops.hop_of(member.backend) is None:
                return f"no route leads to {asked}"
            return "the host has no address to send it from: give the service one with --local"
        if held.state == "NO_DEVICE":
            return f"its device {member.backend.dev or ''} is gone or down".replace("  ", " ")
        return f"nobody answers at {text_of(held.family, held.next_hop)}" if held.family else "it has no MAC address"

    def drained(self, name: str, address: str, since: float, check: HealthRows | None) -> DrainState | None:
        """Return what a backend has left; None where the kernel has no such backend."""
        recent, all_of_it = self.remembered(round(since * TICKS_PER_S)), self.remembered()
        with self._balancer.lock:
            served = self._balancer.by_name.get(name)
            if served is None or address not in served.members:
                return None
            number, row = served.numbers.holders[address], served.at(address)
            words = served.words
            opened = slots.state_of(words) == slots.State.OPEN
            naming = (slots.now_of(words) == number) | (opened & (slots.before_of(words) == number))
            packets, _, connections = served.counts()[number].tolist()
            return DrainState(
                address=address,
                state=self.state_of(served, served.members[address], check)[0],
                flows=int(recent[row]),
                remembered=int(all_of_it[row]),
                slots=int(naming.sum()) if served.ringed else 0,
                packets=packets,
                connections=connections,
            )

    def decaps(self) -> list[DecapRow]:
        """Return the entries of decap, by key."""
        counts = self._balance.decaps.counts()
        local = self._balancer.vips.local
        rows = []
        for key, decap in sorted(self._balance.decaps.wanted.items()):
            there = decap.local in local
            problem = f"{decap.local} is no address of this host: its packets are taken out, if they come here at all"
            packets, octets = counts.get(key, (0, 0))
            rows.append(DecapRow(decap=decap, packets=packets, bytes=octets, problems=[] if there else [problem]))
        return rows


def _ring(words: NDArray[np.uint32], served: Served) -> RingState:
    census = slots.census(words)
    return RingState(slots=served.slots, open=census.open, residual=census.residual, closed=census.closed)


def _flows(served: Served, reading: Reading) -> FlowState | None:
    if reading.flows is None or reading.memory is None:
        return None
    memory = reading.memory[served.row]
    return FlowState(
        remembered=int(memory["remembered"]),
        refused=int(memory["refused"]),
        evicted=int(memory["evicted"]),
        silent=served.silent,
        now=int(reading.flows[served.base : served.base + served.room].sum()),
    )


def _problems(served: Served, backends: list[BackendRow]) -> list[str]:
    service: Service = served.service
    problems = [f"backend {row.address}: {row.reason}" for row in backends if row.state in ("down", "unresolved")]
    staying = [row for row in backends if row.state != "leaving"]
    if not staying:
        problems.append(f"it has no backend: `hopline backend add {service.name} ADDR`")
    elif all(row.state in ("down", "unresolved") for row in staying):
        kept = "the last set is kept" if service.all_down == "keep" else "new flows are refused"
        problems.append(f"no backend is up: {kept}")
    elif all(row.state == "draining" for row in staying):
        problems.append("all backends drain: new flows are refused")
    return problems
