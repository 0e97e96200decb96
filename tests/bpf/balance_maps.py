"""Services, backends and their next hops, written straight into an instance's maps, without a daemon.

    maps = BalanceMaps(datapath)                       # makes the maps large enough and switches the step on
    hop = maps.hop("02:00:00:00:0e:01", "02:00:00:00:0e:02", slot, ifindex)
    web = maps.service("192.0.2.80", "80-81", "tcp", [maps.backend("10.0.2.11", "10.0.1.1", hop)], slots=251)
    web.set_slot(7, now=1, before=0, state="OPEN")

Programs must be loaded after the first line. What is written is what struct service, struct backend and the others of
bpf/lib/layout_balance.h say; the hashes here are worked out in plain Python from their definitions.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hopline.daemon.datapath import Datapath
from hopline.features.forward import Adjacency, mac_word, parse_mac
from hopline.kernel import atomic_store32, atomic_store64

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1
PROTOCOLS = {"tcp": (0,), "udp": (1,), "both": (0, 1)}
STATES = {"CLOSED": 0, "OPEN": 1, "RESIDUAL": 2}
IPIP, GUE = 1, 2
NUMBER_BITS, NUMBER_MASK, STATE_SHIFT = 12, (1 << 12) - 1, 24
LEAF = 0x8000
ESTABLISHED, FINISHED, UDP = 1 << 12, 1 << 13, 1 << 14
BUSY = 0xFFFF << 16
IDLE = 3600  # ticks: 900 s


def packed16(address: str) -> bytes:
    """An address as an ip6_t, an IPv4 one in the first word."""
    return ipaddress.ip_address(address).packed.ljust(16, b"\0")


def family_of(address: str) -> int:
    return ipaddress.ip_address(address).version


def mix_flow(x: int) -> int:
    """The end of MurmurHash3 (fmix64)."""
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD & MASK64
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 & MASK64
    return x ^ x >> 33


def flow_hash(client: str, source_port: int, destination_port: int, seed: int = 0) -> int:
    """The hash of a flow (flow_hash4 and flow_hash6 of bpf/lib/service.h); ports 0 for a service of all ports."""
    octets = ipaddress.ip_address(client).packed
    ports = int.from_bytes(source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big"), "little")
    if len(octets) == 4:
        return mix_flow((ports << 32 | int.from_bytes(octets, "little")) ^ seed)
    high, low = (int.from_bytes(octets[i : i + 8], "little") for i in (0, 8))
    x = (high ^ seed) * 0x9E3779B97F4A7C15 & MASK64
    x = ((x ^ x >> 32) + low) * 0xD6E8FEB86659FD93 & MASK64
    return mix_flow(((x ^ x >> 32) + ports) & MASK64)


@dataclass(frozen=True)
class BackendRow:
    """What a struct backend holds."""

    address: str
    source: str
    adjacency: int
    encapsulation: int = IPIP
    port: int = 6080
    vary: bytes = bytes(4)  # as it lies in the last word of the source
    flags: int = 1

    @property
    def family(self) -> int:
        return family_of(self.address)


@dataclass(frozen=True)
class FlowEntry:
    """One way of the flow table."""

    hash: int
    service: int
    number: int
    flags: int
    seen: int


class ServiceMaps:
    """One service in the maps: its row, its backends by number, its ring."""

    def __init__(self, maps: "BalanceMaps", row: int, base: int, element: int, slots: int, any_port: bool) -> None:
        self.maps, self.row, self.base, self.element, self.slots, self.any_port = (
            maps, row, base, element, slots, any_port)  # fmt: skip

    @property
    def words(self) -> np.ndarray:
        """The ring's slots as they lie in the map, u32."""
        flat = self.maps.datapath.maps["rings"].mmap()["slots"].reshape(-1)
        return flat[self.element * 1024 : self.element * 1024 + self.slots]

    @property
    def record(self) -> np.ndarray:
        """The service's row, a view of one element."""
        return self.maps.datapath.maps["services"].mmap()[self.row : self.row + 1]

    def set_slot(self, slot: int, now: int, before: int = 0, state: str = "CLOSED") -> None:
        word = now | before << NUMBER_BITS | STATES[state] << STATE_SHIFT
        atomic_store32(self.words[slot : slot + 1], word)

    def fill(self, now: int, before: int = 0, state: str = "CLOSED") -> None:
        """Make every slot say the same."""
        self.words[:] = now | before << NUMBER_BITS | STATES[state] << STATE_SHIFT

    def hash_of(self, client: str, source_port: int, destination_port: int) -> int:
        ports = (0, 0) if self.any_port else (source_port, destination_port)
        return flow_hash(client, *ports, seed=int(self.record["seed"][0]))

    def slot_of(self, hash: int) -> int:
        return (hash >> 32) * self.slots >> 32

    def number_of(self, hash: int) -> int:
        """What `now` of the flow's slot says."""
        return int(self.words[self.slot_of(hash)]) & NUMBER_MASK

    def set_flags(self, number: int, *names: str) -> None:
        """Make these members of enum backend_flag the flags of a backend, IN_USE with them."""
        members = self.maps.datapath.layout.enum("backend_flag")
        value = sum(int(members[f"BACKEND_{name}"]) for name in ("IN_USE", *names))
        backends = self.maps.datapath.maps["backends"].mmap()
        atomic_store32(backends[self.base + number : self.base + number + 1]["flags"], value)

    def count(self, number: int) -> tuple[int, int, int]:
        """(packets, bytes, connections) of a backend."""
        counted = self.maps.datapath.maps["backend_count"].get(self.base + number)
        return tuple(int(counted[name].sum()) for name in ("packets", "bytes", "connections"))

    def flow_count(self) -> dict[str, int]:
        counted = self.maps.datapath.maps["flow_count"].get(self.row)
        return {name: int(counted[name].sum()) for name in ("remembered", "refused", "evicted", "hits")}


class BalanceMaps:
    """The maps of balance in one instance; sizes are elements, `flows` is in ways and a power of two."""

    def __init__(
        self, datapath: Datapath, *, rings: int = 256, backends: int = 4096, flows: int = 1 << 12, clock: int = 1000
    ) -> None:
        self.datapath = datapath
        datapath.enlarge({"rings": rings, "backends": backends, "backend_count": backends, "flows": flows // 4})
        datapath.switch(balancing=True, decapsulating=datapath.decapsulating)
        self.state = datapath.maps["state"].mmap()
        self.set_clock(clock)
        self.clear()

    def clear(self) -> None:
        """No services, no flows, nothing counted of them."""
        maps = self.datapath.maps
        for name in ("vip_buckets", "vips", "port_pages", "services", "rings", "backends", "flows"):
            table = maps[name].mmap()
            table[:] = np.zeros(1, table.dtype)
        for name in ("flow_count", "backend_count"):
            for row in range(64):
                maps[name].set(row, np.zeros(maps[name].ncpu, maps[name].value_dtype))
        for i in range(len(self.state["vip_bloom"][0])):
            atomic_store64(self.state["vip_bloom"][0][i : i + 1], 0)
        self._vips: dict[str, int] = {}
        self._next = {"vip": 1, "page": 1, "service": 1, "backend": 1, "element": 0, "hop": self._first_hop}

    @property
    def _first_hop(self) -> int:
        return int(self.datapath.layout.enum("balance_limit").BACKEND_HOP_FIRST)

    def _take(self, kind: str, count: int = 1) -> int:
        first = self._next[kind]
        self._next[kind] += count
        return first

    # the clock, and keyed hashes

    def set_clock(self, ticks: int) -> None:
        atomic_store32(self.state["clock"][0:1], ticks)

    @property
    def clock(self) -> int:
        return int(self.state["clock"][0])

    def mixed(self, address: str) -> int:
        """mix4 or mix6 of an address (bpf/lib/cache.h)."""
        octets = ipaddress.ip_address(address).packed
        return self.datapath.mix4(octets) if len(octets) == 4 else self.datapath.mix6(octets)

    def buckets_of(self, hash: int) -> tuple[int, int]:
        """The two buckets of the flow table that a hash may lie in (bpf/lib/flow.h)."""
        place = hash * (int(self.state["mix_add"][0]) << 32 | int(self.state["mix_multiply"][0])) & MASK64
        buckets = self.datapath.maps["flows"].max_entries
        home = (place >> 32) * buckets >> 32
        return home, (home ^ ((place & MASK32) >> 8 | 1)) & (buckets - 1)

    # next hops, VIPs, services

    def hop(
        self, destination: str, source: str, slot: int, ifindex: int, mtu: int = 1500, state: str = "READY",
        via: str | None = None,
    ) -> int:  # fmt: skip
        """Write a next hop of backends; its adjacency's id."""
        id = self._take("hop")
        words = mac_word(parse_mac(destination), mtu), mac_word(parse_mac(source), slot)
        family, next_hop = (family_of(via), packed16(via)) if via else (0, bytes(16))
        self.datapath.write_adjacency(id, Adjacency(state, *words, ifindex, family, next_hop))
        return id

    def backend(self, address: str, source: str, adjacency: int, **more: Any) -> BackendRow:
        return BackendRow(address, source, adjacency, **more)

    def vip(self, address: str, *, local: bool = False, echo: bool = False) -> int:
        """Make an address a VIP; its row. Flags are those of the last call."""
        row = self._vips.get(address) or self._take("vip")
        record = self.datapath.maps["vips"].mmap()[row : row + 1]
        record["address"] = np.frombuffer(packed16(address), record["address"].dtype.base).reshape(
            record["address"].shape
        )
        record["family"] = family_of(address)
        record["flags"] = local | echo << 1
        if address not in self._vips:
            self._vips[address] = row
            self._index(self.mixed(address), row)
        return row

    def _index(self, mixed: int, row: int) -> None:
        buckets = self.datapath.maps["vip_buckets"].mmap()["ways"]
        home = mixed & (len(buckets) - 1)
        for bucket in (home, home ^ 1):
            free = np.flatnonzero(buckets[bucket] == 0)
            if len(free):
                atomic_store64(buckets[bucket][free[0] : free[0] + 1], mixed << 32 | row)
                break
        bit = mixed >> 23
        words = self.state["vip_bloom"][0]
        atomic_store64(words[bit // 64 : bit // 64 + 1], int(words[bit // 64]) | 1 << bit % 64)

    def service(
        self,
        vip: str,
        port: str,
        protocol: str,
        backends: Sequence[BackendRow],
        *,
        slots: int = 251,
        seed: int = 0,
        idle: int = IDLE,
        remembers: bool = False,
        local: bool = False,
        echo: bool = False,
        pages: bool = False,
        ring: Iterable[int] | None = None,
    ) -> ServiceMaps:
        """Write a service; slot i of its ring is backend i % len(backends), closed, unless `ring` has numbers."""
        first, last = {"any": (0, 0xFFFF)}.get(port) or (int(port.split("-")[0]), int(port.split("-")[-1]))
        any_port = port == "any"
        made = ServiceMaps(
            self, self._take("service"), self._take("backend", max(len(backends), 1)),
            self._take("element", -(-slots // 1024)), slots, any_port,
        )  # fmt: skip
        self.write_backends(made, backends)
        if backends:
            made.words[:] = np.arange(slots) % len(backends) if ring is None else list(ring)
        record = made.record
        record["seed"], record["backends"], record["numbers"], record["idle"] = seed, made.base, len(backends), idle
        record["flags"] = remembers | any_port << 1
        atomic_store64(record["ring"], made.element | slots << 32 if backends else 0)
        vip_row = self.vip(vip, local=local, echo=echo)
        for which in PROTOCOLS[protocol]:
            self._rule(vip_row, which, first, last, made.row, pages)
        return made

    def write_backends(self, service: ServiceMaps, backends: Sequence[BackendRow]) -> None:
        """Write the backends of a service, their numbers in order."""
        table = self.datapath.maps["backends"].mmap()
        for number, backend in enumerate(backends):
            row = table[service.base + number : service.base + number + 1]
            for name, address in (("source", backend.source), ("destination", backend.address)):
                row[name] = np.frombuffer(packed16(address), row[name].dtype.base).reshape(row[name].shape)
            row["adjacency"], row["flags"] = backend.adjacency, backend.flags
            row["vary"] = int.from_bytes(backend.vary, "little")
            row["port"] = np.frombuffer(backend.port.to_bytes(2, "big"), row["port"].dtype)
            row["family"], row["encapsulation"] = backend.family, backend.encapsulation

    def _rule(self, vip: int, protocol: int, first: int, last: int, service: int, pages: bool) -> None:
        record = self.datapath.maps["vips"].mmap()[vip]
        rules = record["rules"][protocol]
        free = np.flatnonzero(rules == 0)
        if len(free) and not pages:
            atomic_store64(rules[free[0] : free[0] + 1], first | last << 16 | service << 32)
            return
        table = self.datapath.maps["port_pages"].mmap()["entries"]
        if not record["pages"][protocol]:
            record["pages"][protocol] = self._take("page")
        page = table[int(record["pages"][protocol])]
        for high in range(first >> 8, (last >> 8) + 1):
            low, top = max(first, high << 8), min(last, high << 8 | 255)
            if (low, top) == (high << 8, high << 8 | 255) and not page[high]:
                page[high] = service
                continue
            if not page[high]:
                page[high] = LEAF | self._take("page")
            table[int(page[high]) & ~LEAF & 0xFFFF][low & 255 : (top & 255) + 1] = service

    # the flow table

    def flows(self) -> list[FlowEntry]:
        """Every entry of the flow table."""
        ways = self.datapath.maps["flows"].mmap()["ways"].reshape(-1)
        words = ways["word"].copy()
        found = []
        for i in np.flatnonzero(words):
            word = int(words[i])
            entry = FlowEntry(int(ways["hash"][i]), word >> 16 & 0xFFFF, word & NUMBER_MASK, word & 0xF000, word >> 32)
            found.append(entry)
        return found

    def put_flow(
        self, service: ServiceMaps, hash: int, number: int, *, seen: int | None = None, flags: int = 0,
        bucket: int | None = None, way: int | None = None,
    ) -> None:  # fmt: skip
        """Put an entry into the table: into a free way of its home, unless told where."""
        bucket = self.buckets_of(hash)[0] if bucket is None else bucket
        ways = self.datapath.maps["flows"].mmap()["ways"][bucket]
        at = int(np.flatnonzero(ways["word"] == 0)[0]) if way is None else way
        seen = self.clock if seen is None else seen
        ways["hash"][at] = hash
        atomic_store64(ways["word"][at : at + 1], number | flags | service.row << 16 | seen << 32)


def with_vary(backend: BackendRow, prefix_length: int) -> BackendRow:
    """The backend with a source that varies in the host bits of a prefix (at most 32 of them)."""
    bits = 32 if backend.family == 4 else 128
    return replace(backend, vary=((1 << (bits - prefix_length)) - 1).to_bytes(4, "big"))
