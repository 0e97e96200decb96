"""Numbered, paced traffic across a router, and what became of every single frame.

WideRouter   Router with a second next hop: router third -- other eth0, 10.3.0.0/24 and fd00:3::/64
Traffic      a sender thread and a receiver for each place; afterwards the fate of every number
Prepared     a command that has started and waits for its input, so that its change can be timed
"""

import resource as resource_limits
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import hopline
from hopline.lab.shell import enter, environment
from hopline.lab.topology import Namespace
from lab.net import PACKET_OUTGOING, Router, raw_socket, sh

MAGIC = b"hopline!"
TRAILER = struct.Struct("!8sIIQ")  # magic, flow, number, time of sending (ns)
SO_TIMESTAMPNS = 35
LOST = "lost"
RATE = 1000
TTL = 64
SETTLE_S = 0.15  # what is sent has arrived, and is read, by then

# behind the server or the other host, and never theirs: neither answers, so neither announces anything
BEHIND4, BEHIND6 = "10.9.0.9", "fd00:9::9"

# for `nft -f -`: whatever would be forwarded is dropped
DROP = "table inet t { chain f { type filter hook forward priority 0; policy drop; }; }"


class WideRouter(Router):
    """`Router`, and a host `other` on the router's device `third`; permanent neighbours; 10.9/24 is via the server."""

    def __init__(self, tag: str | None = None) -> None:
        super().__init__(tag)
        self.third = self._end("router", "third", "02:00:00:00:03:01", 3, 1)
        self.other = self._end("other", "eth0", "02:00:00:00:03:02", 3, 2)
        client, router, server = self.topology.nodes
        router = replace(router, ports=(*router.ports, self._port(self.third, "third")))
        other = Namespace(self.other.ns, (self._port(self.other, "third"),), self._default(self.third))
        self.topology = replace(self.topology, nodes=(client, router, server, other))

    def __enter__(self) -> "WideRouter":
        super().__enter__()
        self.pin_neighbours()
        for address in (self.other.ip4, self.other.ip6):
            sh(self.ns, f"ip neigh replace {address} lladdr {self.other.mac} dev third nud permanent")
        self.route("add")
        return self

    def route(self, verb: str, to: str = "server", extra: str = "") -> None:
        """`ip route VERB` for the networks behind, by way of the server or the other host."""
        end = self.server if to == "server" else self.other
        sh(self.ns, f"ip route {verb} 10.9.0.0/24 via {end.ip4} {extra}")
        sh(self.ns, f"ip route {verb} fd00:9::/64 via {end.ip6} {extra}")

    def remake(self, name: str, index: int | None = None) -> None:
        """Plug a cable in again, its router's end perhaps by a given index: names, MACs, addresses as before."""
        near, far = {"left": (self.left, self.client), "right": (self.right, self.server),
                     "third": (self.third, self.other)}[name]  # fmt: skip
        number = f"index {index}" if index else ""
        sh(self.ns, f"ip link add {near.dev} {number} address {near.mac} type veth "
                    f"peer name {far.dev} address {far.mac} netns {far.ns}")  # fmt: skip
        for end in (near, far):  # before either is up: a veth's xdp features are reckoned when it comes up
            sh(end.ns, f"ethtool -K {end.dev} gro on tx off")
        for end in (near, far):
            sh(end.ns, f"ip address add {end.ip4}/24 dev {end.dev}")
            sh(end.ns, f"ip address add {end.ip6}/64 dev {end.dev} nodad")
            sh(end.ns, f"ip link set {end.dev} up")
        for address in (near.ip4, near.ip6):
            sh(far.ns, f"ip route add default via {address}")
        self.pin_neighbours()
        if name == "right":
            self.route("add")

    def flows(self) -> dict[str, "Flow"]:
        return {"ipv4": Flow(self.client.ip4, BEHIND4), "ipv6": Flow(self.client.ip6, BEHIND6)}


@dataclass(frozen=True)
class Flow:
    """UDP to the discard port; `payload` is filled up to this many octets."""

    source: str
    destination: str
    payload: int = 64


def frame_of(flow: Flow, source_mac: bytes, destination_mac: bytes) -> bytes:
    """The whole frame but for the trailer's numbers, which take its last 24 octets."""
    source, destination = ip_address(flow.source), ip_address(flow.destination)
    udp = struct.pack("!HHHH", 40000, 9, 8 + flow.payload, 0) + bytes(flow.payload)
    if source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(udp), 17, TTL) + source.packed + destination.packed
        return destination_mac + source_mac + b"\x86\xdd" + head + udp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, TTL, 17, 0) + source.packed + destination.packed
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = 0xFFFF - ((total & 0xFFFF) + (total >> 16))
    head = head[:10] + struct.pack("!H", checksum) + head[12:]
    return destination_mac + source_mac + b"\x08\x00" + head + udp


@dataclass
class Verdict:
    """How one flow fared after a moment; times in ms after it, None where nothing was wrong."""

    sent: int
    wrong: int
    last_wrong_ms: float | None
    fates: Counter = field(default_factory=Counter)

    @property
    def stale_ms(self) -> float:
        return self.last_wrong_ms or 0.0


class Traffic:
    """`with Traffic(net, flows) as traffic:` sends until the block ends, then `fate` and `judge` tell what came of it.

    A fate is `lost`, or `PLACE MAC` where the frame arrived, joined by commas if it arrived more than once.
    """

    def __init__(self, net: Router, flows: dict[str, Flow], rate: int = RATE) -> None:
        self.flows = flows
        self.names = list(flows)
        self.interval_ns = 1_000_000_000 // rate
        self.sent: list[list[int]] = [[] for _ in flows]
        self._templates = [frame_of(flow, net.client.mac_bytes, net.left.mac_bytes) for flow in flows.values()]
        self._net = net
        self._arrivals: dict[tuple[int, int], list[tuple[str, bytes, int]]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._deaf = threading.Event()

    def __enter__(self) -> "Traffic":
        places = {"server": self._net.server}
        if isinstance(self._net, WideRouter):
            places["other"] = self._net.other
        self._out = raw_socket(self._net.client.ns, self._net.client.dev, 0)
        self._threads = [threading.Thread(target=self._send, daemon=True)]
        for name, end in places.items():
            sock = raw_socket(end.ns, end.dev)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            sock.settimeout(0.05)
            self._threads.append(threading.Thread(target=self._listen, args=(name, sock), daemon=True))
        for thread in reversed(self._threads):
            thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._stop.set()
        self._threads[0].join()
        time.sleep(SETTLE_S)
        self._deaf.set()
        for thread in self._threads[1:]:
            thread.join()
        self._out.close()

    def _send(self) -> None:
        due, number = time.monotonic_ns(), 0
        while not self._stop.is_set():
            flow = number % len(self.names)
            now = time.time_ns()
            trailer = TRAILER.pack(MAGIC, flow, len(self.sent[flow]), now)
            self.sent[flow].append(now)
            self._out.send(self._templates[flow][: -TRAILER.size] + trailer)
            number += 1
            due += self.interval_ns
            ahead = due - time.monotonic_ns()
            if ahead > 0:
                time.sleep(ahead / 1e9)
            elif ahead < -50_000_000:
                due = time.monotonic_ns()  # held up: go on at the pace, do not make up for it in a burst

    def _listen(self, place: str, sock: socket.socket) -> None:
        with sock:
            while not self._deaf.is_set():
                try:
                    frame, ancillary, _, address = sock.recvmsg(2048, 64)
                except TimeoutError:
                    continue
                except OSError as error:
                    if error.errno == 100:  # ENETDOWN: the far end was taken down; it may come back
                        continue
                    return
                if address[2] == PACKET_OUTGOING or frame[-TRAILER.size : 8 - TRAILER.size] != MAGIC:
                    continue
                _, flow, number, _ = TRAILER.unpack(frame[-TRAILER.size :])
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
                with self._lock:
                    arrived = (place, frame[:6], seconds * 1_000_000_000 + nanoseconds)
                    self._arrivals.setdefault((flow, number), []).append(arrived)

    def fate(self, flow: int, number: int) -> str:
        with self._lock:
            found = self._arrivals.get((flow, number), [])
        return ", ".join(f"{place} {mac.hex(':')}" for place, mac, _ in found) or LOST

    def count(self, name: str) -> int:
        """How many of a flow have been sent so far."""
        return len(self.sent[self.names.index(name)])

    def delivered(self, name: str, since_ns: int = 0) -> int:
        """How many of a flow have arrived so far of those sent since."""
        flow = self.names.index(name)
        with self._lock:
            return sum(1 for f, number in list(self._arrivals) if f == flow and self.sent[f][number] >= since_ns)

    def judge(self, name: str, right: set[str] | str, since_ns: int, until_ns: int | None = None) -> Verdict:
        """Judge what was sent in a span of time (ns since the epoch)."""
        wanted = {right} if isinstance(right, str) else right
        flow = self.names.index(name)
        fates: Counter = Counter()
        wrong, last, sent = 0, None, 0
        for number, at in enumerate(self.sent[flow]):
            if at < since_ns or (until_ns is not None and at >= until_ns):
                continue
            sent += 1
            what = self.fate(flow, number)
            fates[what] += 1
            if what not in wanted:
                wrong, last = wrong + 1, (at - since_ns) / 1e6
        return Verdict(sent, wrong, last, fates)


class Prepared:
    """A command in a namespace that waits for its input; `go` gives it that and returns (before, after) in ns."""

    def __init__(self, ns: str, arguments: list[str], text: str) -> None:
        self._process = subprocess.Popen(
            enter(ns, arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
            text=True,
        )
        self._text = text
        time.sleep(0.1)  # it has started, and waits for its input

    def go(self) -> tuple[int, int]:
        before = time.time_ns()
        said, _ = self._process.communicate(self._text, timeout=10)
        after = time.time_ns()
        assert self._process.returncode == 0, f"{self._text}: {said}"
        return before, after


def ip_lines(ns: str, *lines: str) -> Prepared:
    return Prepared(ns, ["ip", "-batch", "-"], "".join(f"{line}\n" for line in lines))


def nft(ns: str, text: str) -> Prepared:
    return Prepared(ns, ["nft", "-f", "-"], text + "\n")


def sysctls(ns: str, *pairs: str) -> Prepared:
    """`net/ipv4/ip_forward=0` and the like, one after another."""
    script = "".join(f"echo {value} > /proc/sys/{path}\n" for path, _, value in (pair.partition("=") for pair in pairs))
    return Prepared(ns, ["sh", "-e"], script)


def forwarded(daemon, dev: str) -> int:
    """How many packets that came in by `dev` XDP has forwarded."""
    return verdicts(daemon, dev).get("FORWARDED", 0)


def verdicts(daemon, dev: str) -> dict[str, int]:
    (state,) = hopline.connect(daemon.instance).interface.show(dev)
    return {name: count.packets for name, count in state.verdicts.items()}


def attach(daemon, *devices: str) -> None:
    """`hopline interface add` for each, without a process for each."""
    for dev in devices:
        hopline.connect(daemon.instance).interface.add(dev)


def wait_for(condition, seconds: float = 5.0, every: float = 0.02):
    """What `condition` returns as soon as it is true; what it returned last when the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(every)
    return value


def until_right(traffic: Traffic, right: dict[str, object], seconds: float) -> None:
    """Let traffic go on until the latest frames of each flow are right; if they never are, the caller will see."""

    def latest_are_right() -> bool:
        now = time.time_ns()
        latest = [traffic.judge(name, fate, now - 200_000_000, now - 40_000_000) for name, fate in right.items()]
        return all(verdict.sent and not verdict.wrong for verdict in latest)

    time.sleep(0.2)
    wait_for(latest_are_right, seconds)


def assert_right_at_the_end(traffic: Traffic, name: str, right: object) -> None:
    """A bound that is never reached proves nothing: the last frames must be right, and there must be some."""
    end = traffic.judge(name, right, traffic.sent[0][-1] - 100_000_000)
    assert end.sent > 5
    assert end.wrong == 0, f"{name}: {end}"


def assert_becomes(net: Router, right: dict[Flow, object], seconds: float = 4.0) -> None:
    """Send each flow until its latest frames all have the right fate, and fail where they never do."""
    flows = {flow.destination: flow for flow in right}
    fates = {flow.destination: fate for flow, fate in right.items()}
    with Traffic(net, flows, 250 * len(flows)) as traffic:
        until_right(traffic, fates, seconds)
    for name, fate in fates.items():
        assert_right_at_the_end(traffic, name, fate)


def only_xdp_forwards(net: Router) -> None:
    """From now on a frame that arrives was sent on by XDP."""
    sysctls(net.ns, "net/ipv4/ip_forward=0", "net/ipv6/conf/all/forwarding=0").go()


def enter_fixed(daemon, net: Router, to: str = "10.50.0.1") -> Flow:
    """An entry to the server by device and MAC; the flow that it is for."""
    hopline.connect(daemon.instance).forward.add(to, dev="right", dst_mac=net.server.mac)
    return Flow(net.client.ip6 if ":" in to else net.client.ip4, to)


def at_server(net: Router) -> str:
    """The fate of a frame that reached the server."""
    return f"server {net.server.mac}"


def state_of(daemon, dev: str):
    """What `hopline interface show DEV` says."""
    (state,) = hopline.connect(daemon.instance).interface.show(dev)
    return state


@contextmanager
def limited(daemon, resource: str, value: int) -> Iterator[None]:
    """A resource limit on a running daemon for a while, as prlimit names it; only the soft one, so it can go back."""
    name = getattr(resource_limits, f"RLIMIT_{resource.upper()}")
    before = resource_limits.prlimit(daemon.pid, name)
    resource_limits.prlimit(daemon.pid, name, (value, before[1]))
    try:
        yield
    finally:
        resource_limits.prlimit(daemon.pid, name, before)


@contextmanager
def without_disk(daemon) -> Iterator[None]:
    """No file of the daemon's can be written, as on a full disk: its store fails with an I/O error."""
    with limited(daemon, "fsize", 0):
        yield
