"""Real servers for tests of tunnels: they take outer headers off in user space, so that no device for it is needed."""

import contextlib
import fcntl
import os
import select
import socket
import struct
import threading

from hopline.kernel import netns
from lab.net import sh

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_UDP_NO_CHECK6_RX = 102
_CONNECTION = b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Server:
    """A namespace's end of tunnels, IPIP and GUE in both families, and servers of TCP 80 and UDP 53 on every address.

    `outer` collects the sources of outer headers; `status` is what HTTP is answered with; `connections` counts them.
    """

    def __init__(self, ns: str, *vips: str, gue_port: int = 6080) -> None:
        self.ns, self.vips, self.gue_port = ns, vips, gue_port
        self.outer: set[str] = set()
        self.clients: set[str] = set()
        self.status = 200
        self.connections = 0
        self._stop = threading.Event()

    def __enter__(self) -> "Server":
        sh(self.ns, ["sh", "-c", "for d in all default; do echo 0 > /proc/sys/net/ipv4/conf/$d/rp_filter; done"])
        self._sockets = netns.run_in(self.ns, self._open)
        for vip in self.vips:
            sh(self.ns, f"ip address add {vip} dev lo")
        sh(self.ns, "ip link set inner up")
        # two, since who waits for a request must not keep it from coming
        servers = [sock for sock in self._sockets if sock.type == socket.SOCK_STREAM]
        others = [sock for sock in self._sockets if sock not in servers]
        self._threads = [threading.Thread(target=self._serve, args=(each,), daemon=True) for each in (servers, others)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()
        os.close(self._inner)

    def _open(self) -> list[socket.socket]:
        self._inner = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self._inner, _TUNSETIFF, struct.pack("16sH22x", b"inner", _IFF_TUN | _IFF_NO_PI))
        made = []
        for family in (socket.AF_INET, socket.AF_INET6):
            made += [socket.socket(family, socket.SOCK_RAW, protocol) for protocol in (4, 41)]
            for kind, port in (
                (socket.SOCK_DGRAM, self.gue_port),
                (socket.SOCK_DGRAM, 53),
                (socket.SOCK_STREAM, 80),
            ):
                sock = socket.socket(family, kind)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                    if port == self.gue_port:
                        # a tunnel's outer header has no checksum (RFC 6935)
                        sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, 1)
                else:
                    sock.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
                sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(64)
                made.append(sock)
        for sock in made:
            sock.setblocking(False)
        return made

    def _serve(self, sockets: list[socket.socket]) -> None:
        while not self._stop.is_set():
            ready, _, _ = select.select(sockets, [], [], 0.05)
            for sock in ready:
                with contextlib.suppress(OSError):
                    self._one(sock)

    def _one(self, sock: socket.socket) -> None:
        if sock.type == socket.SOCK_STREAM:
            taken, address = sock.accept()
            with taken:
                self.connections += 1
                self.clients.add(address[0])
                taken.settimeout(0.2)
                if taken.recv(4096):
                    taken.sendall(_CONNECTION % self.status)
            return
        octets, ancillary, _, address = sock.recvmsg(65536, 256)
        if sock.type == socket.SOCK_DGRAM and sock.getsockname()[1] == 53:
            sock.sendmsg([b"pong " + octets], _from_there(ancillary), 0, address)
            return
        self.outer.add(address[0])
        if sock.type == socket.SOCK_RAW and sock.family == socket.AF_INET:
            octets = octets[4 * (octets[0] & 0xF) :]
        os.write(self._inner, octets)


def _from_there(ancillary):
    """Answer from the address that was asked."""
    said = []
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP:
            data = bytes(4) + data[4:8] + bytes(4)
        said.append((level, kind, data))
    return said
