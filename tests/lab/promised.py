"""A service whose promise is put to the test: its flows, who takes each, and what befalls its backends.

The shipped program runs over maps that the daemon's own code (daemon/balance) writes; only time is the test's:
state.clock moves when the test says so. A flow is a TCP connection of a client; promise.bpf.c makes its packets.
"""

import contextlib
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from random import Random

import numpy as np
from msgspec.structs import replace

from bpf.pipeline import IN_MAC, NEAR_MAC, Pipeline, open_pipeline
from clang import compile_bpf
from hopline.config import Backend, Service
from hopline.daemon.balance.balancer import Balancer
from hopline.daemon.balance.clock import Clock
from hopline.features.balance import ticks
from hopline.features.forward import Device, Facts, parse_mac
from hopline.kernel import BpfObject, netns
from hopline.kernel.netlink import query

SOURCE = Path(__file__).with_name("promise.bpf.c")
VIP = "192.0.2.80"
RING, IDLE_S = 4099, 100.0
SYN, ACK, FIN = 0x02, 0x10, 0x11
ESTABLISHED = 1 << 12  # of a word of the flow table
SKIPS = 64  # of promise.bpf.c
LEAST_UP, MOST = 2, 8
SLOW, QUICK = 0.25, 0.01  # of T: how far the clock moves in a step at most


def hashes(count: int) -> np.ndarray:
    """The hashes of the first flows (bpf/lib/service.h), with a seed of 0."""
    flow = np.arange(count, dtype=np.uint64)
    client = (np.uint64(0x0B000000) + (flow >> np.uint64(4))).astype(">u4").view("<u4").astype(np.uint64)
    port = (np.uint64(49152) + (flow & np.uint64(15))).astype(">u2").view("<u2").astype(np.uint64)
    to = np.uint64(int.from_bytes((80).to_bytes(2, "big"), "little") << 16)
    x = client | (port | to) << np.uint64(32)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ x >> np.uint64(33)) * np.uint64(factor)
    return x ^ x >> np.uint64(33)


def first_frame() -> bytes:
    """A segment to the VIP; who sends it is filled in."""
    tcp = struct.pack("!HHIIBBHHH", 0, 80, 1, 1, 5 << 4, ACK, 1024, 0, 0) + bytes(6)
    ends = bytes(4) + IPv4Address(VIP).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0) + ends
    return parse_mac(IN_MAC) + parse_mac(NEAR_MAC) + b"\x08\x00" + head + tcp


@dataclass
class Walker:
    """Sends a segment of every flow that is not silent, and says which backend took it."""

    opened: BpfObject
    ifindex: int

    def __post_init__(self) -> None:
        self._flows = self.opened.map("flows").mmap()
        self._walk = self.opened.map("walks").mmap()
        self._frame = first_frame()

    def send(self, sending: np.ndarray, flags: int) -> np.ndarray:
        """Shape (n,), by a flow's number: whether it sends; return the last octet of who took it, 0 for none."""
        count = len(sending)
        self._flows["silent"][:count] = ~sending
        self._flows["backend"][:count] = 0
        self._go(count, flags, int(sending.sum()) + count // SKIPS)
        return self._flows["backend"][:count] >> np.uint32(24)

    def flood(self, count: int) -> None:
        """So many SYNs, each of a flow of its own, which is nobody's."""
        self._walk["flood"] = 1
        self._go(count, SYN, count)
        self._walk["flood"] = 0

    def _go(self, end: int, flags: int, packets: int) -> None:
        self._walk["next"], self._walk["running"], self._walk["end"], self._walk["flags"] = 0, 0, end, flags
        done = self.opened.program("walk_flows").test_run(self._frame, ifindex=self.ifindex, repeat=packets + 3)
        assert done.retval == 0
        assert int(self._walk["next"][0]) == end, "not all flows have sent"


@dataclass
class Promise:
    """The flows of one service, and the backends as the operator and the health checks have them."""

    balancer: Balancer
    clock: Clock
    walker: Walker
    random: Random
    service: Service
    count: int
    up: dict[str, bool] = field(default_factory=dict)
    made: int = 0
    watches_table: bool = False
    tally: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.home = np.zeros(self.count, np.uint32)
        self.alive = np.zeros(self.count, bool)
        self.seen = np.zeros(self.count, np.int64)
        self.begun = 0
        self.silenced = np.zeros(self.count, bool)

    # what befalls backends

    @property
    def idle(self) -> int:
        """T, in ticks."""
        return ticks(self.service.idle)

    def taking(self) -> list[str]:
        """Who may take new flows."""
        return [each.address for each in self.service.backend if self.up[each.address] and not each.drained]

    def put(self, *backends: Backend) -> None:
        self.service = replace(self.service, backend=backends)
        self.balancer.put(self.service)

    def add(self) -> None:
        self.made += 1
        address = f"10.0.2.{20 + self.made}"
        self.up[address] = True
        backend = Backend(address, dst_mac=f"02:00:00:00:0e:{self.made:02x}", dev="out0")
        self.put(*self.service.backend, replace(backend, weight=self.random.choice([1, 1, 1, 3])))
        self.health(address, True)

    def health(self, address: str, state: bool) -> None:
        self.up[address] = state
        self.balancer.set_health({(self.service.name, address): state})
        if not state:
            self.end(address, "dead")

    def end(self, address: str, why: str) -> None:
        """Flows of a backend that is no more are lost, and nobody promised otherwise."""
        lost = self.alive & (self.home == int(address.rpartition(".")[2]))
        self.alive &= ~lost
        self.tally[why] += int(lost.sum())

    def change(self, address: str, **fields: object) -> None:
        self.put(*(replace(each, **fields) if each.address == address else each for each in self.service.backend))

    def remove(self, address: str) -> None:
        grace = self.random.choice([0.0, 0.3 * IDLE_S, IDLE_S, 3 * IDLE_S])
        self.balancer.graces[self.service.name, address] = grace
        self.put(*(each for each in self.service.backend if each.address != address))
        self.pass_time()

    def pass_time(self) -> None:
        """What time brings: graces that end."""
        self.balancer.pass_time()
        there = self.balancer.by_name[self.service.name].members
        for address in [each for each in self.up if each not in there]:
            del self.up[address]
            self.end(address, "removed")

    def event(self) -> None:
        """One change, of any kind that leaves enough to take new flows."""
        wanted = {each.address: each for each in self.service.backend}
        spare = len(self.taking()) > LEAST_UP
        kinds = [self.add] * (len(wanted) < MOST)
        for address, each in wanted.items():
            if each.drained:
                kinds.append(lambda address=address: self.change(address, drained=False))
            if not self.up[address]:
                kinds.append(lambda address=address: self.health(address, True))
            elif spare or each.drained:
                kinds.append(lambda address=address: self.health(address, False))
                kinds.append(lambda address=address: self.remove(address))
                if not each.drained:
                    kinds.append(lambda address=address: self.change(address, drained=True))
            kinds.append(lambda address=address: self.change(address, weight=self.random.choice([1, 2, 5])))
        self.random.choice(kinds)()

    # flows

    def send(self, sending: np.ndarray, flags: int) -> np.ndarray:
        """Send, and mark as seen; return who took each flow."""
        taken = self.walker.send(sending, flags)
        self.seen[: len(sending)][sending] = self.balancer.maps.clock
        return taken

    def begin(self, more: int) -> None:
        """New flows, and some of those that have ended, with the same ports as before."""
        again = ~self.alive[: self.begun] & (self.draw(self.begun) < 0.3) & ~self.silenced[: self.begun]
        self.begun = min(self.count, self.begun + more)
        starting = np.concatenate([again, np.ones(self.begun - len(again), bool)])
        taken = self.send(starting, SYN)
        self.tally["begun"] += int(starting.sum())
        self.tally["refused to begin"] += int((taken[starting] == 0).sum())
        self.home[: self.begun][starting] = taken[starting]
        self.alive[: self.begun] |= starting

    def draw(self, count: int) -> np.ndarray:
        return np.random.default_rng(self.random.randrange(1 << 32)).random(count)

    def go_on(self, share: float, flags: int = ACK) -> None:
        """Some flows send, and those that have been silent for half of T; none must move."""
        age = self.balancer.maps.clock - self.seen[: self.begun]
        urgent = (age > self.idle // 2) & (flags == ACK)
        alive = self.alive[: self.begun] & ~self.silenced[: self.begun]
        sending = alive & (urgent | (self.draw(self.begun) < share))
        known = self.remembered() if self.watches_table else np.zeros(self.begun, bool)
        taken = self.send(sending, flags)
        moved = sending & (taken != self.home[: self.begun])
        self.tally["moved though remembered"] += int((moved & known).sum())
        self.tally["segments"] += int(sending.sum())
        self.tally["moved"] += int(moved.sum())
        # they would be reset
        self.alive[: self.begun] &= ~moved
        if flags == FIN:
            self.alive[: self.begun] &= ~sending

    def wait(self, most: float) -> None:
        """Time passes, and with it what the daemon does in its rounds."""
        self.balancer.maps.clock += self.random.randrange(int(most * self.idle) + 1)
        self.pass_time()
        if self.random.random() < 0.7:
            self.clock.round()

    def settle(self) -> None:
        """Time passes until every slot is closed."""
        served = self.balancer.by_name[self.service.name]
        while served.unsettled:
            self.balancer.maps.clock += self.idle // 2
            self.clock.round()

    def counted(self) -> dict[str, int]:
        """What the program and the daemon have counted of flow memory."""
        served = self.balancer.by_name[self.service.name]
        row = self.balancer.datapath.maps["flow_count"].get(served.row)
        counts = {name: int(row[name].sum()) for name in ("remembered", "refused", "evicted")}
        return {**counts, "silent": served.silent}

    def remembered(self) -> np.ndarray:
        """Return of each flow that has begun whether the flow table has it, established."""
        ways = self.balancer.datapath.maps["flows"].mmap()["ways"].reshape(-1)
        known = ways["hash"][ways["word"] & np.uint64(ESTABLISHED) != 0]
        return np.isin(hashes(self.begun), known)

    def go(self, steps: int, events: int = 1) -> None:
        """So many steps: changes, new flows, flows that go on, time."""
        for step in range(steps):
            for _ in range(self.random.randint(0, 2 * events)):
                self.event()
                if self.random.random() < 0.3:
                    self.go_on(0.2)
            self.begin(self.count // max(steps // 2, 1))
            self.go_on(self.random.choice([0.1, 0.6, 1.0]))
            if step % 3 == 0:
                self.go_on(0.03, FIN)
            self.wait(self.random.choice([0.0, QUICK, SLOW]))


def facts_of(pipeline: Pipeline) -> Facts:
    """The one device that packets leave by."""
    with netns.inside(pipeline.router):
        link = query.link("out0")
    return Facts(devices={"out0": Device("out0", link.index, pipeline.out_slot, link.mac, 1500, True)})


@contextlib.contextmanager
def open_promise(seed: int, flows: int, ways: int, **settings: object) -> Iterator[Promise]:
    """A router with one service of three backends; gone at the end, whatever happens."""
    with contextlib.ExitStack() as stack:
        pipeline = stack.enter_context(open_pipeline())
        pipeline.reset()
        balancer = Balancer(pipeline.attachments, facts_of(pipeline), ways)
        balancer.switch(balancing=True, decapsulating=False, elements=256)
        program = stack.enter_context(pipeline.load(generic=False))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="hl-promise-"))
        opened = stack.enter_context(BpfObject.open(compile_bpf(Path(directory), SOURCE.read_text(), "promise")))
        frame = first_frame()
        words = struct.unpack("<10H", frame[14:34])
        opened.set_rodata(ethernet=frame[:14] + bytes(2), checksum=folded(words))
        opened.load()
        opened.map("pipeline").set(0, program.fd)
        stack.enter_context(netns.inside(pipeline.router))
        pipeline.datapath.maps["state"].mmap()["lease_jiffies"] = 1 << 20
        pipeline.datapath.extend_lease()
        fields = {"port": "80", "protocol": "tcp", "ring": RING, "idle": IDLE_S, "check": "tcp", "local": "10.0.2.1"}
        service = Service("web", VIP, **{**fields, **settings})
        balancer.links = {pipeline.out_index: query.link("out0")}
        made = Promise(balancer, Clock(balancer), Walker(opened, pipeline.in_index), Random(seed), service, flows)
        for _ in range(3):
            made.add()
        yield made


def folded(words: tuple[int, ...]) -> int:
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
