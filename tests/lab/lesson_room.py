"""What tests of lessons share: a small network, a lesson's program on a device of it, frames, and who listens."""

import contextlib
import socket
import threading

from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6EchoRequest

from bpf.frames import ICMP, IP, IPv6
from bpf.frames import frame as framed
from hopline.kernel import BpfObject, XdpLink, netns
from lab.net import Router, Sniffer, send_frames, sh

LEFT, CLIENT, RIGHT, SERVER = (f"02:00:00:00:{end}" for end in ("01:01", "01:02", "02:01", "02:02"))
CLIENT4, SERVER4, CLIENT6, SERVER6 = "10.1.0.2", "10.2.0.2", "fd00:1::2", "fd00:2::2"
MARK = b"a lesson's packet"


class Room(Router):
    """Router with quiet hosts, neighbours known for good, and forwarding off: client and server are left and right."""

    def __enter__(self) -> "Room":
        super().__enter__()
        self.pin_neighbours()
        for ns in (self.client.ns, self.ns, self.server.ns):
            # nobody speaks unasked, and what the router's own kernel would do is not in the way
            sh(ns, "sysctl -qw net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.all.router_solicitations=0 "
                   "net.ipv6.conf.default.router_solicitations=0")  # fmt: skip
        self.forwarding(False)
        return self

    def forwarding(self, on: bool) -> None:
        sh(self.ns, f"sysctl -qw net.ipv4.ip_forward={int(on)} net.ipv6.conf.all.forwarding={int(on)}")


class Attached:
    """One program of a lesson on a device: its maps by name."""

    def __init__(self, opened: BpfObject, program: str) -> None:
        self.maps = {name: opened.map(name) for name in opened.maps()}
        self.program = opened.program(program)

    def counters(self, name: str) -> dict:
        """A map's contents by key, per-CPU values added up."""
        found = self.maps[name]
        keys, values = found.items()
        return {key: values[index].sum() if found.per_cpu else values[index] for index, key in enumerate(keys.tolist())}

    def close(self) -> None:
        for each in (*self.maps.values(), self.program):
            each.close()


@contextlib.contextmanager
def attached(end, path, program: str, **variables):
    """The program on the device of `end` (see net.End) until the block ends."""
    with BpfObject.open(path) as opened:
        opened.set_rodata(**variables)
        opened.only(program)
        opened.load()
        one = Attached(opened, program)
        with contextlib.closing(one), netns.run_in(end.ns, XdpLink.attach, one.program, end.index):
            yield one


def crossing(sender, frames, receiver, match=None, count=None, wait=0.1):
    """What arrives at one end (after its program) of what the other sends, in order."""
    expected = len(frames) if count is None else count
    with Sniffer(receiver.ns, receiver.dev, match) as sniffer:
        send_frames(sender.ns, sender.dev, frames)
        if expected:
            sniffer.wait(expected)
        # one more than expected would come now
        threading.Event().wait(0 if expected else wait)
        return sniffer.frames


def ping(end, address: str, count: int = 3) -> int:
    """How many of so many pings are answered."""
    said = sh(end.ns, f"ping -n -q -c {count} -i 0.02 -W 0.2 {address}", check=False).stdout
    return int(said.partition(" received")[0].rpartition(" ")[2])


def frame(*layers, dst=LEFT, src=CLIENT):
    """A frame from the client to the router."""
    return framed(*layers, MARK, dst=dst, src=src)


def marked(each: bytes) -> bool:
    return MARK in each


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def udp4(port: int = 7000, **fields) -> bytes:
    return frame(IP(**{"src": CLIENT4, "dst": "10.1.0.1", **fields}), UDP(sport=4000, dport=port))


def udp6(port: int = 7000) -> bytes:
    return frame(IPv6(src=CLIENT6, dst="fd00:1::1"), UDP(sport=4000, dport=port))


def echo(sequence: int, *, version: int = 4, tags: tuple = (), options: tuple = ()) -> bytes:
    ip = IP(src=CLIENT4, dst="10.1.0.1", options=list(options)) if version == 4 else IPv6(src=CLIENT6, dst="fd00:1::1")
    icmp = ICMP(id=7, seq=sequence) if version == 4 else ICMPv6EchoRequest(id=7, seq=sequence)
    return frame(*tags, ip, icmp)


def remade(sent: bytes, source: str, destination: str) -> bytes:
    return mac(destination) + mac(source) + sent[12:]


def listening(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("", port))
    made.settimeout(2)
    return made


def say(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(MARK, (address, port))


def answer_once(served: socket.socket) -> None:
    with served, served.accept()[0] as connection:
        connection.recv(100)
        connection.sendall(b"x" * 20_000)


def ask(address: str, port: int) -> bytes:
    with socket.create_connection((address, port), 5) as connection:
        connection.sendall(b"?")
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received
