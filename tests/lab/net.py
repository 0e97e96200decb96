"""Networks, daemons, raw senders and sniffers for tests that need root.

Router      client -- router -- server, plain veth pairs, IPv4 and IPv6
Daemon      `hopline serve` in a namespace: kill, restart, always cleaned up
send_frames / Sniffer   exact bytes out of and into a device, by AF_PACKET
"""

import contextlib
import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hopline.kernel import netns
from hopline.kernel.netlink.features import told
from hopline.lab.service import PINS, RUN, Service, end_daemons, pids_in, remove_instance
from hopline.lab.shell import Result, enter, namespaces, run
from hopline.lab.topology import Namespace, Port, Topology, build, tear_down

ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
SOL_PACKET = 263
PACKET_AUXDATA = 8
# struct tpacket_auxdata (linux/if_packet.h): status, len, snaplen (u32); mac, net, vlan_tci, vlan_tpid (u16)
AUXDATA = struct.Struct("=IIIHHHH")
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6
LARGEST_FRAME = 1 << 16
# the mode of an interface for which nobody chose one
AUTO = "native" if told() else "generic"

_OURS = re.compile(r"^(?:hl-)?t(\d+)-\d+")
_numbers = itertools.count(1)


def unique_tag() -> str:
    """A word no other test, in this process or another, has used: `t<pid>-<n>`.

    Both to base 36, for names of devices begin with it, and they have 15 characters at most.
    """
    return f"t{np.base_repr(os.getpid(), 36)}-{np.base_repr(next(_numbers), 36)}".lower()


def sh(ns: str | None, command: str | list[str], check: bool = True, timeout: float = 20.0) -> Result:
    """Run a command in a namespace (None: this one); HoplineError if it fails and `check` is set."""
    arguments = shlex.split(command) if isinstance(command, str) else command
    return run(enter(ns, arguments), check=check, timeout=timeout)


@dataclass(frozen=True)
class End:
    """One device: the namespace it is in, its name, MAC and addresses."""

    ns: str
    dev: str
    mac: str
    ip4: str
    ip6: str

    @property
    def mac_bytes(self) -> bytes:
        return bytes.fromhex(self.mac.replace(":", ""))

    @property
    def index(self) -> int:
        return netns.run_in(self.ns, socket.if_nametoindex, self.dev)


class Router:
    """client eth0 -- left router right -- server eth0; GRO on everywhere, checksum offload off, forwarding on.

    `with Router() as net:` builds and removes it. 10.1.0.0/24 and fd00:1::/64 are on the left, 10.2.0.0/24 and
    fd00:2::/64 on the right; the router is .1 and ::1, the hosts are .2 and ::2.
    """

    def __init__(self, tag: str | None = None) -> None:
        self.tag = tag or unique_tag()
        self.client = self._end("client", "eth0", "02:00:00:00:01:02", 1, 2)
        self.left = self._end("router", "left", "02:00:00:00:01:01", 1, 1)
        self.right = self._end("router", "right", "02:00:00:00:02:01", 2, 1)
        self.server = self._end("server", "eth0", "02:00:00:00:02:02", 2, 2)
        self.topology = Topology(
            name=self.tag,
            nodes=(
                Namespace(self.client.ns, (self._port(self.client, "left"),), self._default(self.left)),
                Namespace(self.left.ns, (self._port(self.left, "left"), self._port(self.right, "right")), (), True),
                Namespace(self.server.ns, (self._port(self.server, "right"),), self._default(self.right)),
            ),
        )

    def _end(self, host, dev, mac, net, number) -> End:
        return End(f"hl-{self.tag}-{host}", dev, mac, f"10.{net}.0.{number}", f"fd00:{net}::{number}")

    @staticmethod
    def _port(end: End, lan: str) -> Port:
        return Port(end.dev, lan, end.mac, (f"{end.ip4}/24", f"{end.ip6}/64"))

    @staticmethod
    def _default(gateway: End) -> tuple[str, ...]:
        return (f"default via {gateway.ip4}", f"default via {gateway.ip6}")

    @property
    def ns(self) -> str:
        """The router's namespace."""
        return self.left.ns

    def __enter__(self) -> "Router":
        try:
            build(self.topology)
        except BaseException:
            tear_down(self.topology.namespace_names())
            raise
        return self

    def __exit__(self, *exc) -> None:
        tear_down(self.topology.namespace_names())

    def pin_neighbours(self) -> None:
        """Permanent neighbour entries on all four ends, both families: nothing is ever asked or forgotten."""
        for near, far in ((self.client, self.left), (self.server, self.right)):
            for here, there in ((near, far), (far, near)):
                for address in (there.ip4, there.ip6):
                    sh(here.ns, f"ip neigh replace {address} lladdr {there.mac} dev {here.dev} nud permanent")

    def warm(self) -> None:
        """Ping through the router in both families, so that every neighbour is known."""
        for address in (self.server.ip4, self.server.ip6):
            sh(self.client.ns, f"ping -n -q -c 1 -w 5 {address}")


class Daemon(Service):
    """`hopline serve` for a test; `with Daemon(ns, tmp_path) as daemon:`, pins and processes go whatever happens."""

    def __init__(self, ns: str, directory: Path, *arguments: str, instance: str | None = None) -> None:
        super().__init__(ns, instance or unique_tag(), directory, arguments)

    def __enter__(self) -> "Daemon":
        try:
            self.start()
        except BaseException:
            self.clean()
            raise
        return self

    def __exit__(self, *exc) -> None:
        self.clean()

    @property
    def pid(self) -> int:
        assert self.process is not None, "the daemon is not running"
        return self.process.pid

    @property
    def pins(self) -> Path:
        return PINS / self.instance

    def terminate(self) -> int | None:
        """SIGTERM and wait; the return code."""
        return self.stop(signal.SIGTERM)

    def kill9(self) -> int | None:
        """SIGKILL and wait."""
        return self.stop(signal.SIGKILL)

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal, then start it again with the same state."""
        self.stop(number)
        self.start()

    def clean(self) -> None:
        with contextlib.suppress(Exception):
            self.terminate()
        remove_instance(self.instance)


def raw_socket(ns: str, dev: str, protocol: int = ETH_P_ALL) -> socket.socket:
    """An AF_PACKET socket on a device of a namespace; it stays there wherever its user is."""

    def make() -> socket.socket:
        # protocol 0 first: with one, frames of every device would arrive until bind
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((dev, protocol))
        return sock

    return netns.run_in(ns, make)


def send_frames(ns: str, dev: str, frames: list[bytes], interval: float = 0.0) -> None:
    """Send whole Ethernet frames; each is 14 bytes at least (the kernel refuses less) and the device's MTU at most."""
    with contextlib.closing(raw_socket(ns, dev, 0)) as sock:
        for frame in frames:
            sock.send(frame)
            if interval:
                time.sleep(interval)


class Sniffer:
    """Frames that arrive on a device, byte for byte (a VLAN tag the kernel took off is put back).

    Frames the namespace itself sends are left out unless `outgoing`. GRO may merge segments of one TCP stream that
    arrive at once; send such frames with an interval. `match` keeps only the frames it is true for.
    """

    def __init__(self, ns: str, dev: str, match=None, outgoing: bool = False) -> None:
        self.ns, self.dev, self.match, self.outgoing = ns, dev, match, outgoing
        self._frames: list[bytes] = []
        self._change = threading.Condition()

    def __enter__(self) -> "Sniffer":
        self._sock = raw_socket(self.ns, self.dev, ETH_P_ALL)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._sock.settimeout(0.05)
        self._stop = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._stop = True
        self._thread.join()
        self._sock.close()

    def _listen(self) -> None:
        while not self._stop:
            try:
                frame, ancillary, _, address = self._sock.recvmsg(LARGEST_FRAME, 256)
            except TimeoutError:
                continue
            except OSError:  # the device has gone
                return
            if address[2] == PACKET_OUTGOING and not self.outgoing:
                continue
            frame = with_vlan_tag(frame, ancillary)
            if self.match is None or self.match(frame):
                with self._change:
                    self._frames.append(frame)
                    self._change.notify_all()

    @property
    def frames(self) -> list[bytes]:
        """What has arrived so far, in order."""
        with self._change:
            return list(self._frames)

    def clear(self) -> None:
        with self._change:
            self._frames.clear()

    def wait(self, count: int, timeout: float = 2.0) -> list[bytes]:
        """The frames, as soon as there are `count` of them; fewer if the time (seconds) is over."""
        with self._change:
            self._change.wait_for(lambda: len(self._frames) >= count, timeout)
            return list(self._frames)


def with_vlan_tag(frame: bytes, ancillary) -> bytes:
    """The frame as it was on the wire: the outer VLAN tag, which the kernel keeps beside the frame, put back in."""
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = AUXDATA.unpack(data[: AUXDATA.size])
            if status & TP_STATUS_VLAN_VALID:
                tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                return frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
    return frame


def remove_leftovers() -> None:
    """Remove what test processes that no longer exist left behind: daemons, pins, namespaces."""

    def orphaned(name: str) -> bool:
        found = _OURS.match(name)
        return found is not None and not Path(f"/proc/{found[1]}").exists()

    instances = {path.name for place in (PINS, RUN) if place.is_dir() for path in place.iterdir()}
    left = [name for name in namespaces() if orphaned(name)]
    for instance in filter(orphaned, instances):
        end_daemons(instance, {pid for name in left for pid in pids_in(name)})
        remove_instance(instance)
    tear_down(tuple(left))


def missing_tools(*tools: str) -> list[str]:
    return [tool for tool in tools if shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None]
