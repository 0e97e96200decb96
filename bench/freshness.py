"""Time from a change of the host to the right packet: `.venv/bin/python bench/freshness.py [--quick] [--json FILE]`.

Numbered frames go through a router that runs Hopline, about every 100 µs; in their midst one system call changes the
router. Each frame's fate is seen at the receivers. A figure is the time from the return of that call (the kernel has
done it) to the sending of the first frame after the last wrong one, so where any is wrong it is never less than the
distance of two frames, which is printed as the resolution. Before each change frames must leave by XDP, by what was
learned; else nothing is shown and the bench fails.

What it does not show: a machine that is busy otherwise; a change that comes with a thousand others.
"""

import argparse
import gc
import os
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import changes
from record import save
from world import end_cleanly, frame

import hopline
from hopline.kernel import Map, netns
from hopline.lab.service import PINS, Service, remove_instance
from hopline.lab.topology import Namespace, Port, Topology, build, tear_down

TAG = f"hl-fresh-{os.getpid()}"
NEW_MAC = bytes.fromhex("020000000e0e")
BEHIND4, BEHIND6, BY_ENTRY = "10.9.0.9", "fd00:9::9", "10.50.0.1"
NETWORK4, NETWORK6 = "10.9.0.0/24", "fd00:9::/64"
MAGIC = b"fresh:"
NUMBER = struct.Struct("!6sI8x")
ETH_P_ALL, PACKET_OUTGOING = 3, 4
LOST = "lost"
PAUSE_S = 0.00005
BEFORE, WINDOW_S, PATIENCE_S = 20, 0.015, 2.0
RIGHT_AT_END = 20
SETTLED = 5  # frames in a row that must leave by XDP before a change
ROUNDS, QUICK = 200, 10


class Network:
    """client -- router -- server and other, and a daemon on the router."""

    def __init__(self, held: ExitStack, directory: Path) -> None:
        ends = {"client": ("left", 1), "server": ("right", 2), "other": ("third", 3)}
        self.names = {host: f"{TAG}-{host}" for host in (*ends, "router")}
        ports = tuple(self._port(lan, lan, net, 1) for lan, net in ends.values())
        nodes = [Namespace(self.names["router"], ports, (), True)]
        for host, (lan, net) in ends.items():
            defaults = (f"default via 10.{net}.0.1", f"default via fd00:{net}::1")
            nodes.append(Namespace(self.names[host], (self._port("eth0", lan, net, 2),), defaults))
        topology = Topology(TAG, tuple(nodes))
        held.callback(tear_down, topology.namespace_names())
        build(topology)
        self.index = {lan: netns.run_in(self.names["router"], socket.if_nametoindex, lan) for lan, _ in ends.values()}
        self.index["lo"] = 1
        self.changer = changes.Changer(self.names["router"])
        held.callback(self.changer.close)
        for net, lan in ((2, "right"), (3, "third")):
            for address in (f"10.{net}.0.2", f"fd00:{net}::2"):
                self.changer.make(changes.neighbour(address, self.mac(net, 2), self.index[lan]))
        self.service = Service(self.names["router"], TAG, directory)
        held.callback(remove_instance, TAG)
        held.callback(self.service.stop)
        for change in (self.route4("server"), self.route6("server")):
            self.changer.make(change)
        self.service.start()
        client = hopline.connect(TAG)
        for lan, _ in ends.values():
            client.interface.add(lan)
        client.forward.add(BY_ENTRY, via="10.2.0.2")
        self.verdicts = held.enter_context(Map.from_pin(PINS / TAG / "verdict_count"))
        layout = self.verdicts.layout()
        assert layout is not None
        self.forwarded_at = int(layout.enum("verdict")["FORWARDED"])
        self.verdict_slots = int(layout.enum("limit")["VERDICT_SLOTS"])

    @staticmethod
    def mac(net: int, number: int) -> bytes:
        return bytes((2, 0, 0, 0, net, number))

    def _port(self, device: str, lan: str, net: int, number: int) -> Port:
        addresses = (f"10.{net}.0.{number}/24", f"fd00:{net}::{number}/64")
        return Port(device, lan, self.mac(net, number).hex(":"), addresses)

    def forwarded(self) -> int:
        rows = self.verdicts.sums()["packets"]
        return int(rows[self.forwarded_at :: self.verdict_slots].sum())

    def route4(self, to: str, metric: int = 1024) -> bytes:
        net, lan = (2, "right") if to == "server" else (3, "third")
        return changes.route(NETWORK4, f"10.{net}.0.2", self.index[lan], metric)

    def route6(self, to: str) -> bytes:
        net, lan = (2, "right") if to == "server" else (3, "third")
        return changes.route(NETWORK6, f"fd00:{net}::2", self.index[lan])


@dataclass(frozen=True)
class Kind:
    """A change, what takes it back, and where frames go before and after it."""

    name: str
    change: bytes
    undo: tuple[bytes, ...]
    after: str
    before: str = "server"
    destination: str = BEHIND4


def kinds(net: Network) -> list[Kind]:
    def neighbour(mac: bytes) -> bytes:
        return changes.neighbour("10.2.0.2", mac, net.index["right"])

    third, third_mac = net.index["third"], net.mac(3, 2)
    plugged = (changes.link(third, True), changes.neighbour("10.3.0.2", third_mac, third), net.route4("other", 10))
    old_mac, local = net.mac(2, 2), net.index["lo"]
    return [
        Kind("route replaced, IPv4", net.route4("other"), (net.route4("server"),), "other"),
        Kind("route replaced, IPv6", net.route6("other"), (net.route6("server"),), "other", destination=BEHIND6),
        Kind("neighbour's MAC", neighbour(NEW_MAC), (neighbour(old_mac),), "server, new MAC"),
        Kind("neighbour's MAC, operator's entry", neighbour(NEW_MAC), (neighbour(old_mac),), "server, new MAC",
             destination=BY_ENTRY),
        Kind("address becomes ours", changes.address(BEHIND4, local, True), (changes.address(BEHIND4, local, False),),
             LOST),
        Kind("nft rule that drops", changes.forward_drop(), (changes.drop_no_more(),), LOST),
        Kind("link down", changes.link(third, False), plugged, "server", before="other"),
    ]  # fmt: skip


class Traffic:
    """Frames from the client, by number; where each arrived."""

    def __init__(self, held: ExitStack, net: Network, destination: str) -> None:
        family = 6 if ":" in destination else 4
        self._template = frame(family, net.mac(1, 1), destination, bytes(NUMBER.size))[: -NUMBER.size]
        self._out = held.enter_context(packet_socket(net.names["client"], 0))
        self._in = {host: held.enter_context(packet_socket(net.names[host])) for host in ("server", "other")}
        self.sent: list[int] = []
        self.fates: dict[int, str] = {}

    def send(self) -> None:
        number = len(self.sent)
        self.sent.append(time.perf_counter_ns())
        self._out.send(self._template + NUMBER.pack(MAGIC, number))

    def send_for(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.send()
            time.sleep(PAUSE_S)

    def read(self) -> None:
        """Take in what has arrived."""
        time.sleep(0.002)
        for host, one in self._in.items():
            while True:
                try:
                    octets, address = one.recvfrom(256)
                except BlockingIOError:
                    break
                if address[2] == PACKET_OUTGOING or octets[-NUMBER.size :][:6] != MAGIC:
                    continue
                number = NUMBER.unpack(octets[-NUMBER.size :])[1]
                self.fates[number] = host + (", new MAC" if octets[:6] == NEW_MAC else "")

    def fate(self, number: int) -> str:
        return self.fates.get(number, LOST)


def packet_socket(namespace: str, protocol: int = ETH_P_ALL) -> socket.socket:
    def make() -> socket.socket:
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        one.bind(("eth0", protocol))
        return one

    one = netns.run_in(namespace, make)
    one.setblocking(protocol == 0)
    return one


@dataclass
class Trial:
    """One change: ms until the right packet, how many were wrong, and how far frames were from each other (ms)."""

    stale: float
    wrong: int
    apart: float
    call: float  # how long the system call took


def settle(net: Network, kind: Kind, traffic: Traffic) -> None:
    """Wait until frames go where they should before the change, and by XDP."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        before, first = net.forwarded(), len(traffic.sent)
        for _ in range(SETTLED):
            traffic.send()
        traffic.read()
        fates = {traffic.fate(number) for number in range(first, len(traffic.sent))}
        if fates == {kind.before} and net.forwarded() - before >= SETTLED:
            return
        time.sleep(0.01)
    raise AssertionError(f"{kind.name}: before the change frames do not leave by XDP to {kind.before}")


def trial(net: Network, kind: Kind) -> Trial:
    with ExitStack() as held:
        traffic = Traffic(held, net, kind.destination)
        settle(net, kind, traffic)
        for _ in range(BEFORE):
            traffic.send()
            time.sleep(PAUSE_S)
        began = time.perf_counter_ns()
        answering = net.changer.send(kind.change)
        done = time.perf_counter_ns()
        first = len(traffic.sent)
        traffic.send_for(WINDOW_S)
        net.changer.confirm(answering)
        deadline = time.perf_counter() + PATIENCE_S
        while True:
            traffic.read()
            last = len(traffic.sent)
            if all(traffic.fate(number) == kind.after for number in range(last - RIGHT_AT_END, last)):
                break
            assert time.perf_counter() < deadline, f"{kind.name}: never right: {traffic.fate(last - 1)}"
            traffic.send_for(WINDOW_S)
    wrong = [number for number in range(first, last) if traffic.fate(number) != kind.after]
    right = wrong[-1] + 1 if wrong else first
    apart = statistics.median(b - a for a, b in zip(traffic.sent[first:], traffic.sent[first + 1 :], strict=False))
    return Trial((traffic.sent[right] - done) / 1e6, len(wrong), apart / 1e6, (done - began) / 1e6)


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def measure(rounds: int, tell: Callable[[dict], None]) -> list[dict]:
    found = []
    with ExitStack() as held:
        net = Network(held, Path(held.enter_context(tempfile.TemporaryDirectory())))
        for kind in kinds(net):
            if kind.before == "other":  # there, and better than the one to the server
                net.changer.make(net.route4("other", 10))
            trials = []
            gc.disable()
            for _ in range(rounds):
                trials.append(trial(net, kind))
                for change in kind.undo:
                    net.changer.make(change)
            gc.enable()
            found.append(summary(kind, trials))
            tell(found[-1])
    return found


def summary(kind: Kind, trials: list[Trial]) -> dict:
    stale = [one.stale for one in trials]
    return {
        "kind": kind.name,
        "rounds": len(trials),
        "p50": statistics.median(stale),
        "p99": percentile(stale, 0.99),
        "most": max(stale),
        "wrong": statistics.median(one.wrong for one in trials),
        "apart": statistics.median(one.apart for one in trials),
        "call": statistics.median(one.call for one in trials),
        "trials": [asdict(one) for one in trials],
    }


def tell(row: dict) -> None:
    figures = "".join(f"{row[name]:8.2f}" for name in ("p50", "p99", "most", "apart", "call"))
    print(f"{row['kind']:36}{row['rounds']:5} {figures} {row['wrong']:7g}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} changes of each kind, not {ROUNDS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    asked = parser.parse_args()
    end_cleanly()
    print(f"{'change':36}    n      p50     p99     max   apart    call   wrong   (ms; wrong: frames, median)")
    found = measure(QUICK if asked.quick else ROUNDS, tell)
    if asked.json is not None:
        save(asked.json, quick=asked.quick, freshness=found)


if __name__ == "__main__":
    main()
