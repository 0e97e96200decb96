"""The two routers that a table is written into: the shipped program's, and one in which the kernel is alone.

Both have the same addresses, MACs, routes and neighbours. What the operator entered, the second has as routes too: in a
table of addresses and one of prefixes, which its rules ask before the table main.
"""

import contextlib
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bpf.pipeline import FAR_MAC, IN_MAC, NEAR_MAC, OUT_MAC, Outcome, Pipeline, open_pipeline
from hopline.daemon.datapath import TABLES
from hopline.features.forward import Adjacency, mac_word, packed_next_hop, table_of
from hopline.kernel import Program, atomic_store32, netns
from hopline.lab.shell import run
from hopline.lab.topology import Namespace, Port, Topology, build, tear_down
from lab.net import LARGEST_FRAME, PACKET_OUTGOING, raw_socket, unique_tag
from model.model import INGRESS, Answer, followed
from model.netlink import DEL_NEIGHBOUR, DEL_ROUTE, LOCAL, MAIN, NEW_NEIGHBOUR, NEW_ROUTE, Netlink, Switch, mtu
from model.netlink import neighbour as neighbour_message
from model.netlink import route as route_message
from model.table import OWN, STANDING_NEIGHBOURS, UNSLOTTED_MAC, Address, Hop, Prefix, Route, Table, address

CACHE_SIZE = 1024  # entries: less than a daemon may have, so that destinations meet in its buckets
LEASE_TICKS = 100_000  # a minute or more, so that a busy machine is not taken for a daemon that is gone
EXACT_TABLE, PREFIX_TABLE = 100, 101
ARRIVAL_S = 5.0
SO_RCVBUFFORCE = 33
SETUP = (
    f"ip link add unslotted address {UNSLOTTED_MAC} mtu 12000 type veth peer name unslotted1",
    "ip link set unslotted1 up",
    "ip link set unslotted up",
    "ip link set in0 mtu 12000",
)


def sh(namespace: str, *commands: str) -> None:
    run(["nsenter", f"--net={netns.path_of(namespace)}", "--", "sh", "-ec", "\n".join(commands)])


class Kernel:
    """What of a table is the kernel's, in one namespace: routes, neighbours, out0's MTU."""

    def __init__(self, namespace: str) -> None:
        self._netlink = Netlink(namespace)
        self.devices = self._netlink.devices
        self._routes: list[tuple[int, Prefix, Route]] = []
        self._neighbours: dict[tuple[str, Address], bytes] = {}
        self._netlink.send(
            neighbour_message(NEW_NEIGHBOUR, self.devices[d], to, at) for (d, to), at in STANDING_NEIGHBOURS.items()
        )

    def write(self, table: Table, more: list[tuple[int, Prefix, Route]] = (), gateways: dict | None = None) -> None:
        """Make the kernel's tables what `table` says, with routes in other tables and their gateways besides."""
        number = self.devices
        drop = [route_message(DEL_ROUTE, to, route, id, number) for id, to, route in self._routes]
        for device, to in self._neighbours:
            if (device, to) in STANDING_NEIGHBOURS:
                at = STANDING_NEIGHBOURS[device, to]
                drop.append(neighbour_message(NEW_NEIGHBOUR, number[device], to, at))
            else:
                drop.append(neighbour_message(DEL_NEIGHBOUR, number[device], to, b""))
        self._netlink.send([*drop, mtu(number["out0"], table.devices["out0"].mtu)])
        self._routes = [(LOCAL, to, Route("local", "lo")) for to in table.local]
        self._routes += [(MAIN, to, route) for to, route in table.routes.items()] + list(more)
        self._neighbours = {**table.neighbours, **(gateways or {})}
        add = [neighbour_message(NEW_NEIGHBOUR, number[d], to, at) for (d, to), at in self._neighbours.items()]
        self._netlink.send(add + [route_message(NEW_ROUTE, to, each, id, number) for id, to, each in self._routes])

    def close(self) -> None:
        self._netlink.close()


class Shipped:
    """The shipped program in a router, over maps of its own; frames by TEST_RUN."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.datapath = pipeline, pipeline.datapath
        self.kernel = Kernel(pipeline.router)
        self._forwarding = {
            family: Switch(pipeline.router, f"ipv{family}/conf/{INGRESS}/forwarding") for family in (4, 6)
        }
        self._programs = {False: pipeline.program, True: pipeline.load(generic=True)}
        self._program = pipeline.program
        self._slots = {"in0": pipeline.in_slot, "out0": pipeline.out_slot}
        self._counts: Counter[str] = Counter()
        self.datapath.maps["state"].mmap()["lease_jiffies"] = LEASE_TICKS

    def use(self, native: Program, generic: Program) -> None:
        """Run these from now on: the pipeline with steps on that the first was loaded without."""
        self._programs[True].close()
        self._programs = {False: native, True: generic}

    def close(self) -> None:
        self.kernel.close()
        self._programs[True].close()
        for switch in self._forwarding.values():
            switch.close()

    def write(self, table: Table) -> None:
        """Write a table as the daemon would, and forget all that was learned."""
        self.kernel.write(table)
        for family, switch in self._forwarding.items():
            switch.set(family in table.forwarding)
        for name in TABLES:
            self.datapath.maps[name].delete_batch(self.datapath.maps[name].items()[0])
        self.datapath.adjacencies[:] = np.zeros(1, self.datapath.adjacencies.dtype)
        self._write_entries(table)
        self.datapath.set_local({*OWN, *(name_of(to) for to in table.local)})
        self._write_devices(table)
        self._program = self._programs[table.generic]
        self.permit(table)
        self.datapath.bump_generation()
        self._counts = self._count_all()

    def permit(self, table: Table) -> None:
        """Say what may be used of what was learned, and whether anyone vouches for it; the cache stays."""
        self.pipeline.learn(ipv4=4 in table.learn, ipv6=6 in table.learn, bypass=table.bypass)
        self.datapath.extend_lease() if table.leased else self.datapath.drop_lease()

    def _write_entries(self, table: Table) -> None:
        first = int(self.datapath.ids.ADJACENCY_ID_FIRST)
        hops = dict.fromkeys([*table.exact.values(), *table.prefixes.values()])
        ids = {hop: first + number for number, hop in enumerate(hops)}
        for hop, id in ids.items():
            self.datapath.write_adjacency(id, self.adjacency(hop))
            if hop.state == "RETIRING":
                self.datapath.retire_adjacency(id)
        entries = {str(to): ids[hop] for to, hop in [*table.exact.items(), *table.prefixes.items()]}
        for name in TABLES:
            self.datapath.put_entries(name, {to: id for to, id in entries.items() if table_of(to) == name})

    def adjacency(self, hop: Hop) -> Adjacency:
        """What a hop of the model's is to the program."""
        slots = int(self.datapath.limits.INTERFACE_SLOTS)
        source = mac_word(hop.source, self._slots.get(hop.device, slots - 1))
        state = "READY" if hop.state == "RETIRING" else hop.state
        family, via = packed_next_hop(str(hop.via) if hop.via else None)
        index = self.kernel.devices.get(hop.device, 0)
        return Adjacency(state, mac_word(hop.mac, hop.mtu), source, index, family, via)

    def _write_devices(self, table: Table) -> None:
        flags = self.pipeline.attachments.flags
        for name, slot in self._slots.items():
            device = table.devices[name]
            # what the mode does not use says the opposite, so that it would be noticed
            for egress, able in (("native", device.able != table.generic), ("generic", device.able == table.generic)):
                target = self.datapath.maps[f"egress_{egress}"]
                target.set(slot, self.kernel.devices[name]) if able else target.delete(slot)
            row = self.datapath.interfaces[slot : slot + 1]["flags"]
            wanted = int(row[0]) & ~(flags.INTERFACE_EGRESS_FRAGS | flags.INTERFACE_ONE_BUFFER)
            wanted |= device.frags * flags.INTERFACE_EGRESS_FRAGS | table.whole_frames * flags.INTERFACE_ONE_BUFFER
            atomic_store32(row, int(wanted))

    def run(self, frames: Sequence[bytes], answers: Sequence[Answer], cold: bool) -> list[Outcome]:
        """Run frames in at in0, each before a cache that knows nothing if `cold`.

        What the model answered only says which of the verdicts' counters to look at first.
        """
        found = []
        with netns.inside(self.pipeline.router):
            for frame, expected in zip(frames, answers, strict=True):
                if cold:
                    self.datapath.bump_generation()
                ran = self._program.test_run(frame, ifindex=self.pipeline.in_index)
                found.append(Outcome(self._verdict(expected.verdict), ran.retval, ran.data))
        assert self._count_all() == self._counts, "a frame was counted twice, or under two verdicts"
        return found

    def _verdict(self, likely: str) -> str:
        self._counts[likely] += 1
        if self._count(likely) == self._counts[likely]:
            return likely
        self._counts[likely] -= 1
        now = self._count_all()
        moved = now - self._counts
        self._counts = now
        return "+".join(moved.elements()) or "nothing"

    def _count(self, verdict: str) -> int:
        number = self.datapath.verdicts[verdict]
        row = self.pipeline.in_slot * self.datapath.limits.VERDICT_SLOTS + number
        return int(self.datapath.maps["verdict_count"].get(row)["packets"].sum())

    def _count_all(self) -> Counter[str]:
        names = [verdict.name for verdict in self.datapath.verdicts if verdict]
        return Counter({name: count for name in names if (count := self._count(name))})


def name_of(to: Prefix) -> str:
    """A local address is named without its length."""
    full = to.length == (32 if to.family == 4 else 128)
    return str(Address(to.family, to.number)) if full else str(to)


@dataclass(frozen=True)
class End:
    """A cable's far end: frames that come out of the router there."""

    device: str
    sock: socket.socket


class Alone:
    """The router that the kernel is alone in, between near and far, which say nothing of their own."""

    def __init__(self, near: str, router: str, far: str) -> None:
        self.kernel = Kernel(router)
        self._sender = raw_socket(near, "eth0", 0)
        self._ends = [End("in0", raw_socket(near, "eth0")), End("out0", raw_socket(far, "eth0"))]
        for end in self._ends:
            end.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 25)
            end.sock.setblocking(False)

    def close(self) -> None:
        self.kernel.close()
        for sock in (self._sender, *(end.sock for end in self._ends)):
            sock.close()

    def write(self, table: Table) -> None:
        """The operator's entries become routes, each next hop by a gateway of its own that has its MAC."""
        routes, gateways = [], {}
        hops = list(dict.fromkeys([*table.exact.values(), *table.prefixes.values()]))
        for id, entries in ((EXACT_TABLE, table.exact), (PREFIX_TABLE, table.prefixes)):
            for to, entry in entries.items():
                if not is_expressible(table, entry):
                    continue
                hop = followed(table, entry, to.family)
                network = {"in0": "10.0.1", "out0": "10.0.2"}[hop.device]
                number = hops.index(entry)
                via = address(f"{network}.{200 + number}" if to.family == 4 else f"fe80::1:{number:x}")
                gateways[hop.device, via] = hop.mac
                locked = hop.mtu if hop.mtu < table.devices[hop.device].mtu else None
                whole = to if isinstance(to, Prefix) else Prefix(*to, 32 if to.family == 4 else 128)
                routes.append((id, whole, Route("unicast", hop.device, via, locked)))
        self.kernel.write(table, routes, gateways)

    def forward(self, frames: list[bytes], expected: int) -> Counter[tuple[str, bytes]]:
        """Send frames in at in0; what comes out, by device, as soon as there are so many, or after a while."""
        for frame in frames:
            self._sender.send(frame)
        arrived: Counter[tuple[str, bytes]] = Counter(self._arrived())
        deadline = time.monotonic() + ARRIVAL_S
        while arrived.total() < expected and (left := deadline - time.monotonic()) > 0:
            select.select([end.sock for end in self._ends], [], [], left)
            arrived.update(self._arrived())
        return arrived

    def _arrived(self) -> Iterator[tuple[str, bytes]]:
        for end in self._ends:
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame, origin = end.sock.recvfrom(LARGEST_FRAME)
                    if origin[2] != PACKET_OUTGOING and not is_routers_own(frame):
                        yield end.device, frame


def is_expressible(table: Table, hop: Hop) -> bool:
    """Whether a route of the kernel's can say what an entry says: its device's own MAC as the source."""
    device = table.devices.get(hop.device)
    return hop.state == "READY" and device is not None and hop.source == device.mac and hop.mtu >= 576


def is_routers_own(frame: bytes) -> bool:
    """ARP, neighbour discovery, and ICMP that the router itself says; it forwards nothing from these addresses."""
    if frame[12:14] == b"\x08\x00":
        return frame[26:30] in (bytes([10, 0, 1, 1]), bytes([10, 0, 2, 1]))
    return frame[12:14] == b"\x08\x06" or frame[0] & 1 == 1 or frame[22:24] == b"\xfe\x80"


def _alone(tag: str) -> Topology:
    def port(device: str, lan: str, mac: str, number: int, host: int) -> Port:
        return Port(device, lan, mac, (f"10.0.{number}.{host}/24", f"2001:db8:{number}::{host}/64"))

    router = (port("in0", "in", IN_MAC, 1, 1), port("out0", "out", OUT_MAC, 2, 1))
    near, far = Port("eth0", "in", NEAR_MAC, ()), Port("eth0", "out", FAR_MAC, ())
    return Topology(
        name=tag,
        nodes=(
            Namespace(f"hl-{tag}-near", (near,)),
            Namespace(f"hl-{tag}-router", router, (), True),
            Namespace(f"hl-{tag}-far", (far,)),
        ),
    )


@contextlib.contextmanager
def open_alone() -> Iterator[Alone]:
    """Its namespaces, gone at the end whatever happens."""
    topology = _alone(unique_tag())
    near, router, far = topology.namespace_names()
    with contextlib.ExitStack() as stack:
        stack.callback(tear_down, topology.namespace_names())
        build(topology)
        # GRO would make one of two segments, and a host that has an address would answer
        for host in (near, far):
            quiet = "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6"
            sh(host, "ip link set eth0 mtu 12000", "ethtool -K eth0 gro off", quiet)
        rules = [f"ip {ip} rule add pref {id} lookup {id}" for ip in ("", "-6") for id in (EXACT_TABLE, PREFIX_TABLE)]
        sh(router, "ethtool -K in0 gro off", *SETUP, *rules)
        alone = Alone(near, router, far)
        stack.callback(alone.close)
        yield alone


@contextlib.contextmanager
def open_shipped() -> Iterator[Shipped]:
    """The shipped program's router, gone at the end whatever happens."""
    with open_pipeline(CACHE_SIZE) as pipeline:
        pipeline.reset()
        sh(pipeline.router, *SETUP)
        shipped = Shipped(pipeline)
        with contextlib.closing(shipped):
            yield shipped
