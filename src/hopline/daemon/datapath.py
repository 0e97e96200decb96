"""The datapath of one instance: its pinned maps, and the words in them that the program reads for every packet.

Everything lives under <bpffs>/hopline/INSTANCE/, so it outlives the daemon; opening adopts what is pinned there.
"""

import os
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hopline.bpf
from hopline.daemon.adoption import (
    CACHES,
    IDENTITY,
    SIZED,
    Identity,
    enlarging,
    open_maps,
    shared_maps,
    take_lock,
    write_identity,
)
from hopline.daemon.compare import Matched, destinations_of, matched, octets
from hopline.daemon.fingerprint import fingerprint
from hopline.daemon.mixing import Mixing
from hopline.features.forward import Adjacency, by_table, keys_of, trie_key
from hopline.kernel import (
    BpfObject,
    Map,
    Program,
    atomic_load32,
    atomic_load64,
    atomic_store32,
    atomic_store64,
    bpffs,
    has_helper,
)
from hopline.kernel.object import ObjectFile

OBJECT = Path(hopline.bpf.__file__).parent / "xdp.bpf.o"
PIPELINE = "hopline_xdp"
TABLES = ("forward_exact4", "forward_exact6", "forward_prefix4", "forward_prefix6")
PROG_TYPE_XDP = 6
HELPER_XDP_GET_BUFF_LEN = 188

LEASE_S = 1.0
GRACE_S = 0.005  # a program runs for microseconds; packets under way have left by then
KERNEL_HZ = (100, 250, 300, 1000)
CALIBRATION_S = 0.06
LOOPBACK = 127  # first octet
GENERATIONS = (1 << 31) - 1  # the bit above is CACHE_DISPLACED's, in a word of the cache
GENERATION_SWEEP = 1 << 29
GENERATION_BITS = np.uint64((1 << 63) - 1)  # of a word of the cache, with all below them


class Datapath(Mixing):
    """The maps of one instance.

    Entries and the operator's adjacencies are changed by one thread at a time, with the lock of changes held; the
    generation, the lease and what is only read, by any thread at any time.
    """

    def __init__(self, instance: str, directory: Path, cache_size: int, sizes: Mapping[str, int] | None = None) -> None:
        """Take the instance's lock; `sizes` are the elements that new maps of adoption.SIZED get."""
        self.instance = instance
        self.directory = directory
        self.adopted = (directory / "state").exists()
        self.frags = has_helper(PROG_TYPE_XDP, HELPER_XDP_GET_BUFF_LEN)
        refusal = f"serve instance {instance}: another daemon serves it: stop that one, or choose another --instance"
        self._lock = take_lock(directory, refusal)
        try:
            self.file = ObjectFile(OBJECT)
            self.base = open_maps(self.file, instance, directory, cache_size, sizes)
        except BaseException:
            os.close(self._lock)
            raise
        self.maps: dict[str, Map] = {name: self.base.map(name) for name in shared_maps(self.base)}
        self.layout = self.base.layout
        # the members of these come from the object, so no type checker knows them
        self.limits: Any = self.layout.enum("limit")
        self.verdicts: Any = self.layout.enum("verdict")
        self.states: Any = self.layout.enum("adjacency_state")
        self.ids: Any = self.layout.enum("adjacency_id")
        self.cache_buckets = self.maps["cache4"].max_entries
        self.adjacency_limit: int = min(self.limits["ADJACENCIES"], self.cache_buckets)
        self.learned_base = self.adjacency_limit // 2
        super().__init__(self.maps["state"].mmap())
        self.adjacencies = self.maps["adjacencies"].mmap()
        self.interfaces = self.maps["interfaces"].mmap()
        self._lease: Program = self.base.program("extend_lease")
        self.lease_extended: float | None = None  # time.monotonic()
        # steps that programs loaded from now on have; the number tells one set of settings and maps from the next
        self.balancing = self.decapsulating = False
        self.settings = 0
        self._bumping = threading.Lock()
        self._settle_here()
        self._start_state()

    @classmethod
    def open(cls, instance: str, cache_size: int) -> "Datapath":
        """Adopt or create an instance's maps. Refused where another daemon has them, or another build made them."""
        return cls(instance, bpffs.instance_dir(instance), cache_size)

    def _word(self, name: str) -> np.ndarray:
        return self._state[name][0:1]

    def _settle_here(self) -> None:
        own, bound = Identity.of(self.file), int(self.maps[IDENTITY].get(0)["netns"])
        if bound != own.netns:
            self._forget_devices()
            write_identity(self.maps[IDENTITY], own)

    def _forget_devices(self) -> None:
        """Forget the devices of another namespace: a redirect slot holds the device itself, not its number."""
        for slot in range(self.limits.INTERFACE_SLOTS):
            for name in ("egress_native", "egress_generic"):
                self.maps[name].delete(slot)
        for index in self.maps["interface_slots"].items()[0].tolist():
            self.maps["interface_slots"].delete(index)
        self.interfaces[:] = np.zeros(1, self.interfaces.dtype)

    def _start_state(self) -> None:
        if not self.generation:
            self._state["mix_add"][0] = secrets.randbits(32)
            self._state["mix_multiply"][0] = secrets.randbits(32) | 1
        self.bump_generation()
        if not self._state["lease_jiffies"][0]:
            self._state["lease_jiffies"][0] = int(self._measure_hz() * LEASE_S)

    def _measure_hz(self) -> int:
        # HZ is a build option that user space cannot ask for: compare the two clocks
        began, ticks = time.monotonic(), self._run_lease()
        time.sleep(CALIBRATION_S)
        ticks = self._run_lease() - ticks
        rate = ticks / (time.monotonic() - began)
        return min(KERNEL_HZ, key=lambda hz: abs(hz - rate))

    def _run_lease(self) -> int:
        self._lease.test_run(bytes(64))
        return int(self._state["jiffies"][0])

    @property
    def generation(self) -> int:
        """The generation that cached answers must have."""
        return atomic_load32(self._word("generation"))

    def bump_generation(self) -> None:
        """Make every cached answer stale: one store. Any thread may; none takes back what another did.

        Generations come again after 2^31 bumps. What was left lying in the caches by then is cleared at each quarter of
        the way, so that no answer of a former turn comes alive.
        """
        with self._bumping:
            generation = self.generation % GENERATIONS + 1
            atomic_store32(self._word("generation"), generation)
            if generation % GENERATION_SWEEP == 0:
                for name in CACHES:
                    self.cache_words(name)[:] = 0

    def cache_words(self, name: str) -> np.ndarray:
        """Return the words of a cache's ways, (buckets, ways), as they stand in the map."""
        ways = self.maps[name].mmap()["ways"]
        return ways["word"] if ways.dtype.names else ways

    def extend_lease(self) -> None:
        """Vouch for what was learned for another second."""
        self._run_lease()
        self.lease_extended = time.monotonic()

    def drop_lease(self) -> None:
        """Stop vouching, at once: what was learned goes to the kernel until a daemon is back."""
        atomic_store64(self._word("lease_deadline"), 0)
        self.lease_extended = None

    @property
    def lease_ms(self) -> int:
        """Milliseconds of lease granted at the last extension."""
        if not atomic_load64(self._word("lease_deadline")):
            return 0
        return int(LEASE_S * 1000)

    # the operator's entries: what execute acts on

    def write_adjacency(self, id: int, adjacency: Adjacency) -> None:
        """Make adjacency `id` hold this."""
        self.write_adjacencies({id: adjacency})

    def write_adjacencies(self, adjacencies: Mapping[int, Adjacency]) -> None:
        """Make each id hold this. A new MAC or MTU is one store; only where a ready one gets another device, its
        packets pass to the kernel for a grace period, since the program reads the words one after the other.
        """
        moving = [id for id, adjacency in adjacencies.items() if self._moves(id, adjacency)]
        for id in moving:
            row = self.adjacencies[id : id + 1]
            atomic_store32(row["state"], int(self.states.ADJACENCY_UNRESOLVED))
            atomic_store64(row["destination"], 0)  # with an MTU of 0 nothing fits, whatever else is read beside it
        if moving:
            time.sleep(GRACE_S)
        for id, adjacency in adjacencies.items():
            self._write_adjacency(id, adjacency)

    def _moves(self, id: int, adjacency: Adjacency) -> bool:
        row = self.adjacencies[id]
        here = (int(row["source"]) >> 48, int(row["ifindex"]))
        return bool(row["state"] == self.states.ADJACENCY_READY and adjacency.state == "READY" and here != (
            adjacency.source >> 48, adjacency.ifindex
        ))  # fmt: skip

    def _write_adjacency(self, id: int, adjacency: Adjacency) -> None:
        row = self.adjacencies[id : id + 1]
        ready = int(self.states[f"ADJACENCY_{adjacency.state}"])
        if adjacency.state != "READY":
            atomic_store32(row["state"], ready)  # first: what follows is not to be used
        atomic_store64(row["source"], adjacency.source)
        row["ifindex"] = adjacency.ifindex
        row["family"] = adjacency.family
        row["next_hop"] = np.frombuffer(adjacency.next_hop, dtype=row["next_hop"].dtype.base).reshape(
            row["next_hop"].shape
        )
        atomic_store64(row["destination"], adjacency.destination)
        atomic_store32(row["state"], ready)

    def read_adjacency(self, id: int) -> Adjacency | None:
        """Return what an id holds, None where it is free or on its way to be."""
        row = self.adjacencies[id]
        name = self.states(int(row["state"])).name.removeprefix("ADJACENCY_")
        if name not in ("READY", "UNRESOLVED", "NO_DEVICE"):
            return None
        return Adjacency(
            name,
            int(row["destination"]),
            int(row["source"]),
            int(row["ifindex"]),
            int(row["family"]),
            row["next_hop"].tobytes(),
        )

    def retire_adjacency(self, id: int) -> None:
        """Take an id out of use; `free_adjacencies` gives it back."""
        atomic_store32(self.adjacencies[id : id + 1]["state"], int(self.states.ADJACENCY_RETIRING))

    def free_adjacencies(self, ids: Iterable[int]) -> None:
        """Free retired ids, a generation bump and a grace period after they were retired."""
        counters = self.maps["next_hop_count"]
        for id in ids:
            counters.set(id, np.zeros(counters.ncpu, counters.value_dtype))
            row = self.adjacencies[id : id + 1]
            for name in ("destination", "source", "ifindex", "generation", "family"):
                row[name] = 0
            atomic_store32(row["state"], int(self.states.ADJACENCY_FREE))

    def put_entries(self, table: str, entries: Mapping[str, int]) -> None:
        """Point each destination at its adjacency."""
        if not entries:
            return
        target = self.maps[table]
        keys = np.frombuffer(keys_of(entries), dtype=target.key_dtype)
        ids = np.fromiter(entries.values(), dtype=np.uint32, count=len(entries))
        target.update_batch(keys, ids)

    def drop_entries(self, table: str, destinations: Sequence[str]) -> None:
        """Remove destinations; one that is absent is no error."""
        target = self.maps[table]
        if destinations:
            target.delete_batch(np.frombuffer(keys_of(destinations), dtype=target.key_dtype))

    def read_entries(self, tables: Iterable[str] = TABLES) -> dict[str, int]:
        """Return the operator's entries as the kernel has them: destination → adjacency id."""
        entries: dict[str, int] = {}
        for table in tables:
            keys, ids = self.maps[table].items()
            entries.update(zip(destinations_of(table, keys), ids.tolist(), strict=True))
        return entries

    def match(self, wanted: Iterable[str], tables: Iterable[str] = TABLES) -> list[Matched]:
        """Return what is wanted of `tables`, canonical destinations, beside the kernel's entries there."""
        sought = by_table(wanted)
        return [matched(table, sought.get(table, ()), *self.maps[table].items()) for table in tables]

    def fingerprints(self) -> dict[str, int]:
        """Return the fingerprint of each of the operator's tables."""
        return {table: fingerprint(*self.maps[table].items()) for table in TABLES}

    # our own addresses

    def set_local(self, destinations: Iterable[str]) -> bool:
        """Make the local tables hold exactly these addresses and prefixes; return whether anything changed."""
        wanted = {trie_key(to) for to in destinations}
        changed = False
        for name in ("local4", "local6"):
            table = self.maps[name]
            have = set(octets(table.items()[0]))
            want = {key for key in wanted if len(key) == table.key_size}
            if name == "local4":
                self._write_bloom(want | have)  # first the bits: the program looks only where they are set
            for key in want - have:
                table.set(key, 1)
            for key in have - want:
                table.delete(key)
            if name == "local4":
                self._write_bloom(want)
            changed = changed or want != have
        return changed

    def refresh_bloom(self) -> None:
        """Make the filter of our own addresses what the table says, after the key of the hash has changed."""
        self._write_bloom(octets(self.maps["local4"].items()[0]))

    def _write_bloom(self, keys: Iterable[bytes]) -> None:
        # bits are of addresses: a whole prefix has them all, but for loopback's, from which nothing is forwarded anyway
        words = self._state["local_bloom"][0]
        bloom = [0] * len(words)
        for key in keys:
            length, address = int.from_bytes(key[:4], "little"), key[4:]
            if length < 32 and address[0] != LOOPBACK:
                bloom = [(1 << 64) - 1] * len(words)
                break
            bit = self.local_bit(address)
            bloom[bit // 64] |= 1 << bit % 64
        for i, word in enumerate(bloom):
            atomic_store64(words[i : i + 1], word)

    # programs

    def load_pipeline(self, slot: int, *, generic: bool, trace: bool = False, dry_run: bool = False) -> BpfObject:
        """Load the pipeline for the interface in `slot`, over the instance's maps."""
        opened = self.file.open()
        opened.only(PIPELINE)
        for name, shared in self.maps.items():
            if name in (*CACHES, *SIZED):
                opened.resize(name, shared.max_entries)
            opened.reuse(name, shared)
        opened.set_rodata(
            interface_slot=slot,
            generic_mode=generic,
            frags=self.frags,
            cache_mask=self.cache_buckets - 1,
            learned_base=self.learned_base,
            learned_mask=self.learned_base - 1,
            flow_mask=self.maps["flows"].max_entries - 1,
            early=self.balancing or self.decapsulating or trace,
            balancing=self.balancing,
            decapsulating=self.decapsulating,
            trace=trace,
            dry_run=dry_run,
        )
        if trace:
            opened.resize("trace_events", 1 << 20)
        if not self.frags:
            opened.set_frags(PIPELINE, False)
        opened.load()
        return opened

    def switch(self, *, balancing: bool, decapsulating: bool) -> bool:
        """Say which steps programs have that are loaded from now on; return whether that is another set."""
        if (balancing, decapsulating) == (self.balancing, self.decapsulating):
            return False
        self.balancing, self.decapsulating = balancing, decapsulating
        self.settings += 1
        return True

    def enlarge(self, sizes: Mapping[str, int]) -> bool:
        """Give maps of adoption.SIZED more elements, with what they hold; return whether any got more.

        Programs read the old ones until they are loaded anew, so nobody writes to one meanwhile. A view of the old one
        keeps it in memory. KernelError where there is no memory for one: nothing has changed then.
        """
        grown = {name: size for name, size in sizes.items() if size > self.maps[name].max_entries}
        if not grown:
            return False
        with self.file.open() as opened:
            opened.only("extend_lease")
            for name, shared in self.maps.items():
                opened.resize(name, grown.get(name, shared.max_entries))
                if name not in grown:
                    opened.reuse(name, shared)
            opened.load()
            made = {name: opened.map(name) for name in grown}
        for name, larger in made.items():
            old = self.maps[name]
            larger.update_batch(*old.items())
            making = enlarging(self.directory, name)
            larger.pin(making)
            making.rename(self.directory / name)  # one step: there is always one of this name
            self.maps[name] = larger
            old.close()
        self.settings += 1
        return True

    def close(self) -> None:
        """Let go of everything; what is pinned stays."""
        self.base.close()
        self.file.close()
        os.close(self._lock)
