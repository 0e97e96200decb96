"""Two namespaces for the benches, alike but for how many routes they have; nothing is sent, devices are only named."""

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from hopline.kernel import bpffs, netns
from hopline.kernel.link import remove_pins

NAMESPACE = f"hl-bench-{os.getpid()}"
FULL = f"{NAMESPACE}-full"  # the one with 100,000 routes of each family
ROUTES = 100_000
ROUTES_WALKED = 65_536  # of those, how many the destinations fall into

# destinations are 11.0.0.0/8 or 2001:db8:b00::/40: the part that differs ends 24 bits on, in the word that FIRST fills
FIRST, FIRST_LENGTH4, FIRST_LENGTH6, SPAN = 0x0B000000, 8, 40, 24
SENDER_MAC, NEIGHBOUR_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000e01")
SENDER4, SENDER6 = "192.0.2.1", "2001:db8::1"
VIA4, VIA6 = "10.99.0.2", "fd00:99::2"


def address4(number: int) -> str:
    return str(IPv4Address(FIRST + number))


def address6(number: int) -> str:
    return str(IPv6Address(0x20010DB8 << 96 | (FIRST + number) << 64 | 9))


def ones_complement_sum(octets: bytes) -> int:
    total = sum(int.from_bytes(octets[i : i + 2], "big") for i in range(0, len(octets), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def frame(family: int, mac: bytes, destination: str | None = None, payload: bytes = bytes(18)) -> bytes:
    """A UDP packet with TTL 64 in a frame to `mac`; to the first destination, and an IPv4 one as short as can be."""
    to = destination or (address4(0) if family == 4 else address6(0))
    udp = struct.pack("!HHHH", 0xFFFF, 9, 8 + len(payload), 0) + payload
    if family == 6:
        head = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + IPv6Address(SENDER6).packed + IPv6Address(to).packed
        return mac + SENDER_MAC + b"\x86\xdd" + head + udp
    addresses = IPv4Address(SENDER4).packed + IPv4Address(to).packed
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17)
    check = 0xFFFF - ones_complement_sum(start + bytes(2) + addresses)
    return mac + SENDER_MAC + b"\x08\x00" + start + check.to_bytes(2, "big") + addresses + udp


def forget(instance: str) -> None:
    """Take away what an instance has pinned, if anything."""
    directory = bpffs.instance_dir(instance)
    if directory.is_dir():
        remove_pins(directory)


def forget_all() -> None:
    """Take away what a run has pinned that was ended in the midst, this or one whose process is no more."""
    for directory in bpffs.instance_dir(NAMESPACE).parent.glob("hl-bench-*"):
        owner = directory.name.split("-")[2]
        if owner == str(os.getpid()) or not Path(f"/proc/{owner}").exists():
            forget(directory.name)


def end_cleanly() -> None:
    """Make SIGTERM unwind the stack, so that namespaces and pins go."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def in_world(measure: Callable[[], None], *, full: bool = True) -> None:
    """Run `measure` in a fresh namespace with in0 and out0, both able to take redirects; FULL may be beside it."""
    end_cleanly()
    with contextlib.ExitStack() as held:
        held.callback(forget_all)
        for name in (NAMESPACE, FULL)[: 1 + full]:
            netns.create(name)
            held.callback(netns.delete, name)
            furnish(name)
        if full:
            full_routes(FULL)
        netns.run_in(NAMESPACE, measure)


def furnish(namespace: str) -> None:
    """Two cables, and a handful of routes, one of which leads where the benches' packets go."""
    inside = ["nsenter", f"--net=/run/netns/{namespace}"]
    for near, far in (("in0", "in1"), ("out0", "out1")):
        subprocess.run([*inside, "ip", "link", "add", near, "type", "veth", "peer", "name", far], check=True)
        # gro first: the kernel looks at the peer's when a veth is set up
        for device in (near, far):
            subprocess.run([*inside, "ethtool", "-K", device, "gro", "on"], check=True)
        for device in (near, far):
            subprocess.run([*inside, "ip", "link", "set", device, "up"], check=True)
    for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        subprocess.run([*inside, "sysctl", "-q", "-w", f"net.{name}=1"], check=True)
    mac = NEIGHBOUR_MAC.hex(":")
    batch(
        namespace,
        "address add 10.99.0.1/24 dev out0",
        "address add fd00:99::1/64 dev out0 nodad",
        f"route add {address4(0)}/{FIRST_LENGTH4} via {VIA4}",
        f"route add {address6(0)}/{FIRST_LENGTH6} via {VIA6}",
        f"neigh add {VIA4} lladdr {mac} dev out0 nud permanent",
        f"neigh add {VIA6} lladdr {mac} dev out0 nud permanent",
    )


def batch(namespace: str, *lines: str) -> None:
    inside = ["nsenter", f"--net=/run/netns/{namespace}"]
    subprocess.run([*inside, "ip", "-batch", "-"], input="\n".join([*lines, ""]), text=True, check=True)


def full_routes(namespace: str) -> None:
    """100,000 routes of each family: one in each 256th of the destinations, the rest elsewhere."""
    step = 1 << SPAN - ROUTES_WALKED.bit_length() + 1
    length = SPAN - step.bit_length() + 1
    lines = []
    for number in range(ROUTES):
        lines.append(f"route add {address4(number * step)}/{FIRST_LENGTH4 + length} via {VIA4}")
        lines.append(f"route add {address6(number * step)}/{FIRST_LENGTH6 + length} via {VIA6}")
    batch(namespace, *lines)
