"""The namespace of checks through a tunnel: there the VIP is not local, so what comes from it is taken.

A check's socket is made in it and has a mark; the mark's table leads the VIP to a program that pushes the outer header
of the mark's backend. A pair of devices joins it to the daemon's namespace; at both ends of the way programs of traffic
control take over (bpf/check.bpf.c), so no packet meets the daemon's own IP layer.

The namespace has no name and ends with the process; of a process that was killed only the filters stay, which take
nothing but answers to checks, and the next one removes them.
"""

import contextlib
import errno
import socket
import zlib
from collections import defaultdict
from collections.abc import Collection
from ipaddress import ip_address
from pathlib import Path

import numpy as np

import hopline.bpf
from hopline.errors import HoplineError, KernelError
from hopline.kernel import BpfObject, Map
from hopline.kernel.netlink import change, encap, query, room, tc
from hopline.kernel.netns_thread import NamespaceThread
from hopline.kernel.object import ObjectFile

PEER = "check"  # the pair's end in the namespace
FIRST_PORT, LAST_PORT = 61000, 65535  # above what Linux gives to others by itself (ip_local_port_range)
MARK = 1 << 30  # of a check's socket, with the number of its tunnel
TABLE = 100
LINK = "192.0.0.2/30"  # of addresses that are never outside a link (RFC 6333)
GATEWAYS = ("192.0.0.1", "fe80::1")  # nobody has them: the other end takes every frame
POOL = 16  # sockets are made as many at a time, since each time is a turn of two threads
SETTINGS = {
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/ip_local_port_range": f"{FIRST_PORT} {LAST_PORT}",
    "ipv4/ping_group_range": "0 2147483647",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/dad_transmits": "0",
}
_BIND_ADDRESS_NO_PORT = 24
_PROC = Path("/proc/sys/net")

Kind = tuple[int, int, int]  # family, type, protocol


class Room:
    """The namespace with its devices, programs and maps. All but `open_socket` is called by one thread at a time."""

    def __init__(self, instance: str) -> None:
        """Make the namespace; KernelError where that is not allowed."""
        self.device = f"hlc-{zlib.crc32(instance.encode()):08x}"
        self._filter = f"{tc.OURS}check/{instance}"
        package = Path(hopline.bpf.__file__).parent
        self._files = [ObjectFile(package / f"{name}.bpf.o") for name in ("lwt", "check")]
        self._index = 0  # of the pair's end in the daemon's namespace
        self._objects: list[BpfObject] = []
        self._maps: dict[str, Map] = {}
        self._outers: dict[int, tuple[str, str, int]] = {}
        self._vips: set[str] = set()
        self._addresses: set[str] = set()
        self._devices: set[int] = set()
        self._pools: dict[Kind, list[socket.socket]] = defaultdict(list)
        self._identifier = FIRST_PORT
        self._thread = NamespaceThread("hopline checks")
        self._thread.call(_settle)
        tc.detach(self._filter)

    def close(self) -> None:
        """Take away all of it."""
        with contextlib.suppress(HoplineError):
            self.leave()
        for pool in self._pools.values():
            for sock in pool:
                sock.close()
        self._pools.clear()
        self._thread.close()
        for file in self._files:
            file.close()

    # the way out and back

    def enter(self) -> None:
        """Make the devices and load the programs, unless they are there."""
        if self._objects and any(link.index == self._index for link in query.links()):
            return
        try:
            self.leave()
            self._join()
        except BaseException:
            self.leave()
            raise

    def _join(self) -> None:
        room.join(self.device, PEER, self._thread.fd)
        change.set_link(self.device, up=True)
        self._index = index = query.link(self.device).index
        for family in ("ipv4", "ipv6"):
            # or the FIB would not be asked for what comes in there
            _set(f"{family}/conf/{self.device}/forwarding", "1")
        push, ends = (file.open() for file in self._files)
        ends.set_rodata(check_device=index, check_first_port=FIRST_PORT)
        self._objects = [push, ends]
        for each in self._objects:
            each.load()
        self._maps = {"check_outers": push.map("check_outers"), "check_answers": ends.map("check_answers")}
        with ends.program("hopline_check_out") as program:
            tc.attach(index, program.fd, self._filter)
        self._thread.call(_furnish)

    def leave(self) -> None:
        """Take the devices and programs away; the namespace stays."""
        tc.detach(self._filter)
        if any(link.name == self.device for link in query.links()):
            change.delete_link(self.device)
        for table in self._maps.values():
            table.close()
        for each in self._objects:
            each.close()
        self._objects, self._maps, self._outers = [], {}, {}
        self._vips, self._addresses, self._devices = set(), set(), set()

    def set_addresses(self, addresses: Collection[str]) -> None:
        """Have these addresses, which checks come from, and no others."""
        for address in self._addresses - set(addresses):
            self._thread.call(change.delete_address, PEER, _host(address))
            self._addresses.discard(address)
        for address in set(addresses) - self._addresses:
            self._thread.call(change.add_address, PEER, _host(address))
            self._addresses.add(address)

    def set_vips(self, vips: Collection[str]) -> None:
        """Lead packets to these addresses, and no others, by the program that pushes outer headers."""
        for vip in self._vips - set(vips):
            self._thread.call(change.delete_route, _host(vip), dev=PEER, table=TABLE)
            self._vips.discard(vip)
        with self._objects[0].program("hopline_check") as program:
            hook = encap.NewHook("xmit", "hopline_check", program.fd)
            for vip in set(vips) - self._vips:
                self._thread.call(room.lead_through, vip, PEER, TABLE, hook)
                self._vips.add(vip)

    def set_outers(self, outers: dict[int, tuple[str, str, int]]) -> None:
        """Push these headers: mark → (source, destination, port of GUE or 0)."""
        table = self._maps["check_outers"]
        for mark in {mark for mark, outer in outers.items() if self._outers.get(mark) != outer}:
            source, destination, port = outers[mark]
            header = (_octets(source), _octets(destination), 6 if ":" in destination else 4, port, 0)
            table.set(mark, np.array(header, table.value_dtype))
        for mark in set(self._outers) - set(outers):
            table.delete(mark)
        self._outers = dict(outers)

    def set_answers(self, answers: Collection[tuple[str, str]], devices: Collection[int]) -> None:
        """Take what comes from a VIP to an address of checks, and comes in by one of these devices."""
        table = self._maps["check_answers"]
        have = {key.tobytes() for key in table.items()[0]}
        want = {_octets(source) + _octets(destination) for source, destination in answers}
        for key in want - have:
            table.set(key, 1)
        for key in have - want:
            table.delete(key)
        for index in self._devices - set(devices):
            tc.detach(self._filter, index)
        with self._objects[1].program("hopline_check_in") as program:
            for index in devices:
                if not tc.attached(self._filter, index):
                    tc.attach(index, program.fd, self._filter)
        self._devices = set(devices)

    # what a check uses, in the event loop

    def open_socket(self, family: int, kind: int, protocol: int, mark: int, source: str) -> socket.socket:
        """Return a non-blocking socket of the namespace, with a mark and an address."""
        wanted = (family, kind, protocol)
        pool = self._pools[wanted]
        if not pool:
            pool.extend(self._thread.call(_sockets, *wanted))
        sock = pool.pop()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            if not protocol:
                sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            else:
                self._bind_echo(sock, source)
        except BaseException:
            sock.close()
            raise
        return sock

    def _bind_echo(self, sock: socket.socket, source: str) -> None:
        """Give a ping socket an identifier that the filter takes; others may wait for an answer with theirs."""
        for _ in range(FIRST_PORT, LAST_PORT + 1):
            self._identifier = self._identifier + 1 if self._identifier < LAST_PORT else FIRST_PORT
            try:
                sock.bind((source, self._identifier))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return
        raise OSError(errno.EADDRINUSE, "bind")


def _settle() -> None:
    """In the namespace, before there are devices, which take their settings from the defaults."""
    for name, value in SETTINGS.items():
        _set(name, value)
    change.set_link("lo", up=True)
    room.lead_marked(MARK, TABLE, TABLE)


def _furnish() -> None:
    """In the namespace, when it is joined: everything leaves by the pair."""
    change.set_link(PEER, up=True)
    room.whole_checksums(PEER)
    change.add_address(PEER, LINK)
    change.replace_route("default", via=GATEWAYS[0], dev=PEER)
    if (_PROC / "ipv6").is_dir():
        change.replace_route("default", via=GATEWAYS[1], dev=PEER)


def _set(name: str, value: str) -> None:
    try:
        (_PROC / name).write_text(value)
    except FileNotFoundError:
        return  # a kernel without IPv6
    except OSError as error:
        raise KernelError(f"set {_PROC / name}", error.errno or 0) from error


def _sockets(family: int, kind: int, protocol: int) -> list[socket.socket]:
    made: list[socket.socket] = []
    for _ in range(POOL):
        try:
            made.append(socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol))
        except OSError:
            if not made:
                raise
            break
    return made


def _host(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def _octets(address: str) -> bytes:
    """Return an address as the programs have it: 16 octets, of which IPv4 has the first four."""
    return ip_address(address).packed.ljust(16, b"\0")
