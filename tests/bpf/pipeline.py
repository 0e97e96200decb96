"""The shipped pipeline in a router's namespace, over maps of its own, run on packets of ours by TEST_RUN.

    near eth0 -- in0 router out0 -- eth0 far

in0 is 10.0.1.1/24 and 2001:db8:1::1/64, out0 10.0.2.1/24 and 2001:db8:2::1/64, the hosts are .2 and ::2. No program
is attached, so what `near` sends by AF_PACKET is forwarded by the kernel and can be compared.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hopline.daemon import datapath as datapath_module
from hopline.daemon.attachments import Attachments
from hopline.daemon.datapath import PIPELINE, TABLES, Datapath
from hopline.daemon.options import CACHE_SIZE_DEFAULT
from hopline.features.forward import Adjacency, mac_word, parse_mac, table_of
from hopline.kernel import Program, RingBuffer, atomic_store32, bpffs, netns
from hopline.kernel.netlink import query
from hopline.kernel.netlink.features import device_features
from hopline.lab.shell import run
from hopline.lab.topology import Namespace, Port, Topology, build, tear_down
from lab.net import Sniffer, send_frames, unique_tag

XDP_PASS, XDP_REDIRECT = 2, 4
# these tests can be run against another build than the shipped one; tests/faults does
if OTHER_OBJECT := os.environ.get("HOPLINE_TEST_OBJECT"):
    datapath_module.OBJECT = Path(OTHER_OBJECT)

NEAR_MAC, IN_MAC = "02:00:00:00:01:02", "02:00:00:00:01:01"
FAR_MAC, OUT_MAC = "02:00:00:00:02:02", "02:00:00:00:02:01"
LOCAL = ("10.0.1.1", "10.0.2.1", "10.0.1.255", "10.0.2.255", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:2::")


@dataclass(frozen=True)
class Outcome:
    """What the program said of a packet, and the packet it left."""

    verdict: str
    action: int
    data: bytes


@dataclass(frozen=True)
class Hop:
    """A next hop of the operator's, by its MACs; `slot` names the device, out0's unless told."""

    destination: str = "02:00:00:00:0e:01"
    source: str = "02:00:00:00:0e:02"
    mtu: int = 1500
    state: str = "READY"
    slot: int | None = None


LEARNED_HOP = Hop(FAR_MAC, OUT_MAC)


@dataclass
class Pipeline:
    """One instance's maps and programs, and the namespaces around them; `open_pipeline()` makes it."""

    near: str
    router: str
    far: str
    datapath: Datapath
    attachments: Attachments
    in_index: int
    out_index: int
    program: Program
    tracer: Program
    ring: RingBuffer
    leased: bool = True
    balance: object = None  # its BalanceMaps, where that step is on
    _last: list[tuple[int, int]] = field(default_factory=list)
    _next_id: int = 0

    # runs

    def run(self, packet: bytes) -> Outcome:
        """Run a packet in at in0; exactly one verdict is counted, once, with the frame's octets."""
        if self.leased:
            self.datapath.extend_lease()
        with netns.inside(self.router):
            ran = self.program.test_run(packet, ifindex=self.in_index)
        counted = self._counted()
        assert len(counted) == 1, f"verdicts counted: {counted}"
        [(name, moved)] = counted.items()
        assert moved == (1, len(packet)), f"{name} counted {moved} for a frame of {len(packet)} octets"
        return Outcome(name, ran.retval, ran.data)

    def quick(self, packet: bytes) -> bytes:
        """Run a packet and return what is left of it: for thousands of them, from within `inside()`."""
        return self.program.test_run(packet, ifindex=self.in_index).data

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """This thread acts in the router until the block ends."""
        self.datapath.extend_lease()
        return netns.inside(self.router)

    def trace(self, packet: bytes) -> tuple[Outcome, np.void]:
        """Run a packet through the load that records and writes nothing: the outcome and its struct trace_event."""
        if self.leased:
            self.datapath.extend_lease()
        with netns.inside(self.router):
            ran = self.tracer.test_run(packet, ifindex=self.in_index)
        events = self.ring.drain().records(self.datapath.layout.struct("trace_event"))
        assert len(events) == 1
        return Outcome(self.datapath.verdicts(int(events[0]["verdict"])).name, ran.retval, ran.data), events[0]

    def load(self, **settings: bool) -> Program:
        """Load the pipeline once more, with other settings of load_pipeline."""
        with netns.inside(self.router), self.datapath.load_pipeline(self.in_slot, **settings) as loaded:
            return loaded.program(PIPELINE)

    def _rows(self) -> list[tuple[int, int]]:
        counters, width = self.datapath.maps["verdict_count"], self.datapath.limits.VERDICT_SLOTS
        values = (counters.get(self.in_slot * width + i) for i in range(width))
        return [(int(value["packets"].sum()), int(value["bytes"].sum())) for value in values]

    def _counted(self) -> dict[str, tuple[int, int]]:
        before, self._last = self._last, self._rows()
        pairs = enumerate(zip(before, self._last, strict=True))
        moved = {i: (now[0] - was[0], now[1] - was[1]) for i, (was, now) in pairs if now != was}
        return {self.datapath.verdicts(i).name: by for i, by in moved.items()}

    def recount(self) -> None:
        """Forget what `quick` or another program counted, so that the next `run` sees its own verdict only."""
        self._last = self._rows()

    def by_kernel(self, frames: list[bytes], mark: bytes, expected: int | None = None) -> list[bytes]:
        """Send frames from `near` through the kernel; those that end in `mark` and arrive at `far`, in order."""
        with Sniffer(self.far, "eth0", match=lambda frame: frame.endswith(mark)) as sniffer:
            send_frames(self.near, "eth0", frames)
            return sniffer.wait(len(frames) if expected is None else expected)

    def lookups(self, *names: str) -> int:
        """These members of enum lookup, or'ed."""
        members = self.datapath.layout.enum("lookup")
        return sum(int(members[f"LOOKUP_{name}"]) for name in names)

    def asked(self, packet: bytes) -> tuple[str, set[str], str | None]:
        """(verdict, what was asked, what answered) for a packet, by the tracer."""
        outcome, event = self.trace(packet)
        members = self.datapath.layout.enum("lookup")
        bits, found = int(event["forward"]["lookups"]), int(event["forward"]["found"])
        names = {each.name.removeprefix("LOOKUP_") for each in members if bits & each}
        return outcome.verdict, names, members(found).name.removeprefix("LOOKUP_") if found else None

    # the world around it

    @property
    def in_slot(self) -> int:
        return self.attachments.slots[self.in_index]

    @property
    def out_slot(self) -> int:
        return self.attachments.slots[self.out_index]

    def sh(self, command: str) -> None:
        """Run a shell command in the router."""
        run(["nsenter", f"--net={netns.path_of(self.router)}", "--", "sh", "-ec", command])

    def know(self, **abilities: bool) -> None:
        """Tell the tables what the devices are now, as the daemon does, or that they have these abilities."""
        with netns.inside(self.router):
            for name in ("in0", "out0"):
                self.attachments.know(query.link(name), replace(device_features(name), **abilities))

    def learn(
        self, on: bool = True, *, ipv4: bool | None = None, ipv6: bool | None = None, bypass: bool = False
    ) -> None:
        """Set in0's LEARN flags."""
        learn4, learn6 = on if ipv4 is None else ipv4, on if ipv6 is None else ipv6
        self.attachments.set_learning(self.in_index, learn4=learn4, learn6=learn6, bypass=bypass)

    def adjacency(self, hop: Hop, id: int | None = None) -> int:
        """Write a next hop into the operator's range; its id."""
        if id is None:
            id, self._next_id = self._next_id, self._next_id + 1
        slot = self.out_slot if hop.slot is None else hop.slot
        destination, source = mac_word(parse_mac(hop.destination), hop.mtu), mac_word(parse_mac(hop.source), slot)
        state = hop.state if hop.state != "RETIRING" else "READY"
        self.datapath.write_adjacency(id, Adjacency(state, destination, source, self.out_index))
        if hop.state == "RETIRING":
            self.datapath.retire_adjacency(id)
        return id

    def forward(self, to: str, hop: Hop) -> int:
        """Enter `to` by `hop` as the operator would; the adjacency's id."""
        id = self.adjacency(hop)
        self.datapath.put_entries(table_of(to), {to: id})
        self.datapath.bump_generation()
        return id

    def set_state(self, id: int, state: str) -> None:
        """Change nothing of an adjacency but its state."""
        number = int(self.datapath.states[f"ADJACENCY_{state}"])
        atomic_store32(self.datapath.adjacencies[id : id + 1]["state"], number)

    def contents(self) -> dict[str, bytes]:
        """Every octet of every map of the instance."""
        found = {}
        for name, table in self.datapath.maps.items():
            if name.startswith("egress"):
                found[name] = repr([int(table.get(slot) or 0) for slot in range(table.max_entries)]).encode()
                continue
            keys, values = table.items()
            rows = zip(keys, values, strict=True)
            found[name] = b"".join(sorted(key.tobytes() + value.tobytes() for key, value in rows))
        return found

    def reset(self) -> None:
        """As it was made: no entries, nothing learned or cached, learning off, the lease running."""
        for name in (*TABLES, "local4", "local6"):
            table = self.datapath.maps[name]
            table.delete_batch(table.items()[0])
        self.datapath.adjacencies[:] = np.zeros(1, self.datapath.adjacencies.dtype)
        self._next_id = int(self.datapath.ids.ADJACENCY_ID_FIRST)
        self.learn(False)
        self.datapath.set_local(LOCAL)
        self.know()
        self.datapath.bump_generation()
        self.leased = True
        self.ring.drain()
        self.recount()


def _topology(tag: str) -> Topology:
    def port(device: str, lan: str, mac: str, number: int, host: int) -> Port:
        return Port(device, lan, mac, (f"10.0.{number}.{host}/24", f"2001:db8:{number}::{host}/64"))

    return Topology(
        name=tag,
        nodes=(
            Namespace(f"hl-{tag}-near", (port("eth0", "in", NEAR_MAC, 1, 2),)),
            Namespace(
                f"hl-{tag}-router", (port("in0", "in", IN_MAC, 1, 1), port("out0", "out", OUT_MAC, 2, 1)), (), True
            ),
            Namespace(f"hl-{tag}-far", (port("eth0", "out", FAR_MAC, 2, 2),)),
        ),
    )


@contextlib.contextmanager
def open_pipeline(
    cache_size: int = CACHE_SIZE_DEFAULT, prepare: Callable[[Datapath], object] = lambda datapath: None
) -> Iterator[Pipeline]:
    """Namespaces, maps and programs, these loaded after `prepare`; all gone at the end, whatever happens."""
    tag = unique_tag()
    topology = _topology(tag)
    near, router, far = topology.namespace_names()
    with contextlib.ExitStack() as stack:
        stack.callback(tear_down, topology.namespace_names())
        build(topology)
        for number, device, mac in ((1, "in0", NEAR_MAC), (2, "out0", FAR_MAC)):
            for address in (f"10.0.{number}.2", f"2001:db8:{number}::2"):
                add = ["neigh", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent"]
                subprocess.run(["ip", "-n", router, *add], check=True)
        with netns.inside(router):
            directory: Path = bpffs.instance_dir(tag)
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            datapath = Datapath.open(tag, cache_size)
            stack.callback(datapath.close)
            prepare(datapath)
            attachments = Attachments(datapath)
            links = {name: query.link(name) for name in ("in0", "out0")}
            for name, link in links.items():
                attachments.know(link, device_features(name))
            slot = attachments.slots[links["in0"].index]
            plain = stack.enter_context(datapath.load_pipeline(slot, generic=False))
            traced = stack.enter_context(datapath.load_pipeline(slot, generic=False, trace=True, dry_run=True))
            ring = stack.enter_context(RingBuffer(traced.map("trace_events")))
            made = Pipeline(
                near,
                router,
                far,
                datapath,
                attachments,
                links["in0"].index,
                links["out0"].index,
                stack.enter_context(plain.program(PIPELINE)),
                stack.enter_context(traced.program(PIPELINE)),
                ring,
            )
        yield made
