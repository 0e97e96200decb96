"""One service as the kernel has it: the rows of its backends, and the slots of its ring.

Backends' headers are read by programs at any time, and are more than one store can change. So they change only in rows
that nothing names, or all together in another block of rows, to which the service is switched by one store.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.config import Backend, Service
from hopline.daemon.balance.maps import BalanceMaps
from hopline.daemon.datapath import GRACE_S
from hopline.errors import HoplineError, Refused
from hopline.features import maglev, slots
from hopline.features.balance import Outer, flags_of, ports_of, ticks
from hopline.features.numbers import Numbers
from hopline.features.slots import Stores
from hopline.kernel.atomic import store32_at

NUMBER_MASK = np.uint32(slots.NUMBERS - 1)
NOBODY = ""  # holder of the number that slots name where no backend may take new flows
UNRESOLVED_S = 1.0  # a backend without a neighbour keeps its slots for that long: it may just be being asked for

Rows = Callable[[int], int | None]  # a size → the first of so many rows of backends, None where there are none


@dataclass(slots=True)
class Member:
    """One backend of a service; `leaving` is the tick in which a removed one ends, 0 where it is none."""

    backend: Backend
    hop: int = 0  # adjacency id, 0 where nothing leads to it
    ready: bool = False
    since: float = 0.0  # of the monotonic clock: when `ready` last changed
    leaving: int = 0
    healthy: bool | None = None  # None: not known
    new: bool = False  # came to a service that was there, and its first check is awaited

    def resolved(self, now: float) -> bool:
        """Whether packets reach it, or may do so in a moment."""
        return self.ready or now - self.since < UNRESOLVED_S


@dataclass
class Served:
    """A service's place in the maps, and what is known of its backends. Under the lock of the balancer."""

    maps: BalanceMaps
    service: Service
    row: int
    base: int  # row of number 0
    room: int  # rows
    first: int  # element of `rings`
    vip: str | None = None  # that leads to it
    members: dict[str, Member] = field(default_factory=dict)
    numbers: Numbers = field(default_factory=Numbers)
    unsettled: bool = False  # slots are open or residual
    residual: bool = False
    changes: int = 0  # of slots
    kept: frozenset[str] = frozenset()  # who was in the ring last
    aimed: int | None = None  # what the ring was last made of
    headed: object = None  # what its backends' headers and next hops were last made of
    carried: NDArray[np.uint64] | None = None  # counters of packets that met a former block while it was copied
    silent: int = 0  # flows that were forgotten, since the daemon began

    @property
    def slots(self) -> int:
        """How many slots the ring has."""
        return self.service.ring

    @property
    def elements(self) -> int:
        """How many elements of `rings` it takes."""
        return elements_of(self.slots, int(self.maps.limits.RING_ELEMENT_SLOTS))

    @property
    def words(self) -> NDArray[np.uint32]:
        """The slots as they lie in the map."""
        start = self.first * int(self.maps.limits.RING_ELEMENT_SLOTS)
        return self.maps.slots[start : start + self.slots]

    @property
    def idle(self) -> int:
        """T, in ticks."""
        return ticks(self.service.idle)

    def at(self, address: str) -> int:
        """Return the row of a backend."""
        return self.base + self.numbers.holders[address]

    # words of the service

    def write_words(self) -> None:
        """Make the service's own words what its settings say."""
        service, row = self.service, self.maps.services[self.row : self.row + 1]
        ports = ports_of(service)
        row["first_port"], row["last_port"] = ports.first, ports.last
        row["protocols"] = sum(1 << protocol for protocol in ports.protocols)
        row["seed"] = service.seed
        words = {"flags": flags_of(service, self.maps.service_flags.__members__), "idle": self.idle}
        remembers = int(self.maps.service_flags.SERVICE_REMEMBERS)
        if self.ringed and int(row["flags"][0]) & remembers & ~words["flags"]:
            self.store(slots.doubted(self.words))  # first: flows that only the table knows are there
        for name, value in words.items():
            if int(row[name][0]) != value:
                self.maps.set_word(self.row, name, value)

    def intact(self) -> bool:
        """Whether the maps say of the service what they should, as far as that is quickly seen."""
        row, flags = self.maps.services[self.row], self.maps.backends["flags"]
        ringed = self.maps.ring(self.row) == (self.first, self.slots) or not self.numbers.holders
        words = (int(row["backends"]), int(row["numbers"]), int(row["idle"]), int(row["seed"]))
        return (
            ringed
            and words == (self.base, self.room, self.idle, self.service.seed)
            and self.maps.name(self.row) == self.service.name
            and bool((slots.now_of(self.words) < self.room).all())
            and all(flags[self.at(a)] and self._adjacency(a) == m.hop for a, m in self.members.items())
        )

    def _adjacency(self, address: str) -> int:
        return int(self.maps.backends["adjacency"][self.at(address)])

    def restore(self) -> None:
        """Write what leads to the service's rows and slots; what is in them follows from a change to what it is."""
        self.maps.set_name(self.row, self.service.name)
        self.maps.set_word(self.row, "backends", self.base)
        self.maps.set_word(self.row, "numbers", self.room)
        if self.numbers.holders:
            self.maps.set_ring(self.row, self.first, self.slots)
        for address, member in self.members.items():
            self.maps.set_backend(self.at(address), "adjacency", member.hop)
        self.aimed = None

    # rows of backends

    def fill(
        self, backends: Sequence[Backend], headers: Sequence[Outer | None], hops: Sequence[int], now: float
    ) -> None:
        """Enter the backends of a service that nothing leads to yet, with their headers and adjacencies, at once."""
        count = len(backends)
        rows = np.zeros(count, self.maps.backends.dtype)
        blank = Outer(0, 0, bytes(16), bytes(16), 0, 0)
        told = [header or blank for header in headers]
        for name in ("source", "destination"):
            octets = b"".join(getattr(header, name) for header in told)
            rows[name] = np.frombuffer(octets, rows[name].dtype.base).reshape(rows[name].shape)
        for name in ("vary", "port", "family", "encapsulation"):
            rows[name] = [getattr(header, name) for header in told]
        rows["adjacency"] = hops
        rows["weight"] = [backend.weight for backend in backends]
        rows["flags"] = int(self.maps.backend_flags.BACKEND_IN_USE)
        self.maps.backends[self.base : self.base + count] = rows
        self.numbers.most = self.room
        self.numbers.holders = {backend.address: number for number, backend in enumerate(backends)}
        self.members = {
            backend.address: Member(backend, hop, since=now) for backend, hop in zip(backends, hops, strict=True)
        }

    def inherit(self, former: "Served") -> None:
        """Know of backends what was known in a service that this one is in the place of."""
        self.kept = former.kept
        for address in self.members.keys() & former.members.keys():
            member, old = self.members[address], former.members[address]
            member.healthy, member.new = old.healthy, old.new
            if not old.ready:
                member.since = old.since

    def enter(self, address: str, header: Outer | None, rows: Rows, free: Callable[[int, int], None]) -> None:
        """Give a backend a number and fill its row, in a larger block where this one is full."""
        used = len(self.numbers.holders) + len(self.numbers.retired)
        if address not in self.numbers.holders and used >= self.room:
            self.move(room_for(used + 1, int(self.maps.limits.SERVICE_BACKENDS)), {}, rows, free)
        self.numbers.most = self.room
        self.numbers.take(address)
        row = self.at(address)
        self.maps.set_backend(row, "flags", 0)
        self.maps.set_backend(row, "adjacency", 0)
        self.maps.write_backend(row, header)
        self.maps.backends["leaving"][row] = 0

    def renumber(self, address: str, rows: Rows, free: Callable[[int, int], None]) -> None:
        """Give a backend another number than it has; where there is no room it keeps that one, not believed."""
        flags = self.maps.backend_flags
        if address == NOBODY:
            self.enter(NOBODY, None, rows, free)
            self.maps.set_backend(self.at(NOBODY), "flags", int(flags.BACKEND_IN_USE | flags.BACKEND_DEAD))
            return
        header, old = self.header(address), self.numbers.leave(address)
        try:
            self.enter(address, header, rows, free)
        except HoplineError:
            self.numbers.retired.discard(old)
            self.numbers.holders[address] = old
            self.numbers.tainted.add(old)
            raise
        self.maps.set_backend(self.base + old, "adjacency", 0)
        self.maps.set_backend(self.at(address), "adjacency", self.members[address].hop)
        self.note(address)

    def move(
        self, room: int, headers: Mapping[str, Outer | None], rows: Rows, free: Callable[[int, int], None]
    ) -> None:
        """Go over to another block of rows, in which these backends have these headers; Refused where none is free."""
        base = rows(room)
        if base is None:
            limit = self.maps.backends.shape[0]
            raise Refused(f"service {self.service.name}: all {limit:,} rows of backends are in use: remove some first")
        maps, held = self.maps, min(self.room, room)
        maps.blank_backends(base, room)
        maps.backends[base : base + held] = maps.backends[self.base : self.base + held]
        for address, header in headers.items():
            maps.write_backend(base + self.numbers.holders[address], header)
        counts = maps.datapath.maps["backend_count"]
        before = block(counts, self.base, held)
        maps.zero_rows("backend_count", base, room)
        counts.update_batch(np.arange(base, base + held, dtype=np.uint32), before)
        maps.set_word(self.row, "backends", base)
        time.sleep(GRACE_S)
        maps.set_word(self.row, "numbers", room)
        self._carry(totals(block(counts, self.base, held)) - totals(before), room)
        free(self.base, self.room)
        self.base, self.room, self.numbers.most = base, room, room

    def _carry(self, missed: NDArray[np.uint64], room: int) -> None:
        if not missed.any() and self.carried is None:
            return
        carried = np.zeros((room, missed.shape[1]), np.uint64)
        if self.carried is not None:
            carried[: min(room, len(self.carried))] += self.carried[:room]
        carried[: len(missed)] += missed
        self.carried = carried

    def counts(self) -> NDArray[np.uint64]:
        """Return packets, bytes and connections of each number, shape (room, 3), since it was given out."""
        found = totals(block(self.maps.datapath.maps["backend_count"], self.base, self.room))
        return found if self.carried is None else found + self.carried

    def header(self, address: str) -> Outer:
        """Return a backend's outer header as the kernel has it."""
        return Outer(*self.maps.header_of(self.maps.backends[self.at(address)].item()))

    def headers(self) -> dict[str, Outer]:
        """Return the headers of all backends as the kernel has them."""
        rows = self.maps.backends[self.base : self.base + self.room].tolist()
        header_of = self.maps.header_of
        return {address: Outer(*header_of(rows[number])) for address, number in self.numbers.holders.items()}

    def point(self, address: str, hop: int) -> None:
        """Let a backend's packets leave through an adjacency."""
        self.members[address].hop = hop
        self.maps.set_backend(self.at(address), "adjacency", hop)

    def note(self, address: str) -> None:
        """Write what is in a backend's row for the daemon alone."""
        member, row = self.members[address], self.at(address)
        self.maps.set_backend(row, "weight", member.backend.weight)
        self.maps.set_backend(row, "leaving", member.leaving)

    # the ring

    def targets(self, now: float) -> list[str]:
        """Return who is to take new flows; nobody, where none may."""
        candidates = [a for a, m in self.members.items() if m.backend.share and not m.leaving]
        awaited = [a for a in candidates if not self.members[a].new]
        checked = self.service.check != "none"
        healthy = [a for a in awaited if not checked or self.members[a].healthy is not False]
        good = [a for a in healthy if self.members[a].resolved(now)]
        if good or not candidates:
            return good
        if self.service.all_down == "refuse" and not healthy:
            return []
        # the last set is kept, whatever became of it
        return [a for a in candidates if a in self.kept] or healthy or candidates

    def aim(self, now: float, clock: int) -> bool:
        """Make flags and slots what they should be; return whether anything changed. Flags first, then slots."""
        targets = self.targets(now)
        revived = [a for a in targets if not self.numbers.believed(a)]
        if revived:
            raise Unbelieved(revived)
        if not targets and NOBODY not in self.numbers.holders and (self.members or self.ringed):
            raise Unbelieved([NOBODY])
        weights = [(a, self.members[a].backend.share) for a in targets]
        in_ring = set(targets)
        flags = {address: self._flags(address, address in in_ring) for address in self.members}
        # what it was is kept as a hash alone: there may be a thousand services of a hundred backends
        aimed = hash((tuple(weights), tuple(flags.items()), tuple(self.numbers.holders.items())))
        if aimed == self.aimed:
            return False
        dead = int(self.maps.backend_flags.BACKEND_DEAD)
        for address, value in flags.items():
            died = bool(value & dead) and not int(self.maps.backends["flags"][self.at(address)]) & dead
            self.maps.set_backend(self.at(address), "flags", value)
            if died:
                self.numbers.die(address)
        self._store(self._wanted(weights), clock)
        self.aimed = aimed
        if targets:
            self.kept = frozenset(targets)
        return True

    def _flags(self, address: str, in_ring: bool) -> int:
        flags, member = self.maps.backend_flags, self.members[address]
        if in_ring:
            return int(flags.BACKEND_IN_USE)
        if member.healthy is False:
            return int(flags.BACKEND_IN_USE | flags.BACKEND_DEAD)
        return int(flags.BACKEND_IN_USE | flags.BACKEND_DRAINING)

    def _wanted(self, weights: list[tuple[str, int]]) -> NDArray[np.uint32]:
        if not weights:
            return np.full(self.slots, self.numbers.holders.get(NOBODY, 0), np.uint32)
        which = ring_of(tuple(weights), self.slots)
        numbers = np.array([self.numbers.holders[address] for address, _ in weights], np.uint32)
        return numbers[which]

    @property
    def ringed(self) -> bool:
        """Whether packets meet the ring."""
        return self.maps.ring(self.row)[1] != 0

    def _store(self, wanted: NDArray[np.uint32], clock: int) -> None:
        if not self.ringed:
            if self.numbers.holders:
                self.words[:] = slots.fresh(wanted)
                self.maps.set_ring(self.row, self.first, self.slots)
            return
        words = self.words
        # most slots are closed and stay what they are: those are not gone through one by one
        some = np.flatnonzero(((words ^ wanted) & NUMBER_MASK) | (words >> np.uint32(slots.STATE_SHIFT)))
        stores = slots.retarget(words[some], wanted[some], self.lost(), clock, self.idle)
        self.store(Stores(some[stores.indexes], stores.words))

    def store(self, stores: Stores) -> None:
        """Write slots, each by a store of its own."""
        if len(stores):
            store32_at(self.words, stores.indexes, stores.words)
            self.unsettled = self.residual = True
            self.changes += 1

    def take_stock(self) -> None:
        """See whether there are still open and residual slots."""
        states = slots.state_of(self.words)
        self.unsettled = bool(states.any())
        self.residual = bool((states == slots.State.RESIDUAL).any())

    def lost(self) -> NDArray[np.bool_]:
        """Return which numbers lead to nobody who is alive, shape (NUMBERS,)."""
        flags = self.maps.backends["flags"][self.base : self.base + self.room]
        names = self.maps.backend_flags
        dead = np.ones(slots.NUMBERS, np.bool_)
        dead[: self.room] = (flags & int(names.BACKEND_DEAD)).astype(bool) | ~(
            flags & int(names.BACKEND_IN_USE)
        ).astype(bool)
        return dead


class Unbelieved(HoplineError):
    """Backends that need another number first: they died, and the flow table may still name them by the old one."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self.addresses = list(addresses)
        super().__init__(f"backends {', '.join(self.addresses)} need another number")


@lru_cache(maxsize=8)
def ring_of(weights: tuple[tuple[str, int], ...], size: int) -> NDArray[np.uint16]:
    """Return a ring; services that share their backends share it too, and there may be a thousand."""
    return maglev.ring(weights, size)


def elements_of(size: int, each: int) -> int:
    """Return how many elements a ring of so many slots takes."""
    return -(-size // each)


def room_for(backends: int, most: int) -> int:
    """Return how many rows a service gets for so many backends: some more, so that it need not move at once."""
    return min(most, -(-(backends + backends // 8 + 4) // 8) * 8)


def block(counts: Any, first: int, count: int) -> NDArray[Any]:
    """Return rows of a per-CPU map, shape (count, ncpu)."""
    if not count:
        return np.zeros((0, counts.ncpu), counts.value_dtype)
    return np.stack([counts.get(first + i) for i in range(count)])


def totals(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Return packets, bytes and connections over the CPUs, shape (n, 3)."""
    sums = [values[name].sum(axis=1, dtype=np.uint64) for name in ("packets", "bytes", "connections")]
    return np.stack(sums, axis=1)
