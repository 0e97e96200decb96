"""Where virtual devices lose what XDP sends them or what it forwards, each in a line that ends with what mends it."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hopline.errors import HoplineError
from hopline.kernel import capability, netns
from hopline.kernel.netlink import query
from hopline.kernel.netlink.ethtool import offloads
from hopline.kernel.netlink.features import device_features
from hopline.kernel.netlink.types import Link
from hopline.kernel.netlink.wire import NETLINK_ROUTE, Socket, attribute, attributes, signed

_RTM_GETNSID = 90
_NETNSA_NSID, _NETNSA_FD = 1, 3


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a veth. `enter` is what a shell puts before a command to reach it, '' when it is here."""

    name: str
    enter: str
    gro: bool
    xdp: bool
    transmit_checksum: bool


def traps(index: int) -> list[str]:
    """What is wrong with an interface as a place where XDP receives and sends; NotFound when there is none.

    Without CAP_SYS_ADMIN another namespace cannot be entered, and nothing is said of a peer there.
    """
    link = query.link(index)
    found: list[str] = []
    if link.kind == "veth":
        found += _veth(link)
    if link.master:
        found.append(_port(link))
    if link.kind == "" and link.ethernet:
        found += _hardware(link)
    return found


def veth_peer(link: Link) -> Peer | None:
    """The other end, also in another namespace that has a name or a process; None when it cannot be found."""
    if link.peer_netnsid is None:
        return _inspect(link.peer_index, "")
    namespace = _namespace_of(link.peer_netnsid)
    if namespace is None:
        return None
    path, enter = namespace
    try:
        return netns.run_in(path, _inspect, link.peer_index, enter)
    except HoplineError:
        return None  # it went away meanwhile, or may not be entered


def _veth(link: Link) -> list[str]:
    peer = veth_peer(link)
    features = device_features(link)
    # while either end is down the kernel does not call it a target yet, whatever the peer is set to
    hears = peer is not None and (peer.gro or peer.xdp)
    lost = not hears and (not features.redirect_target if features.known else peer is not None)
    found = []
    if lost:
        mend = f"{peer.enter}ethtool -K {peer.name} gro on" if peer else "ethtool -K PEER gro on, at the peer"
        what = f"its peer {peer.name} has" if peer else "its peer has"
        found.append(f"{link.name}: packets redirected to it are lost, {what} neither gro nor an xdp program: {mend}")
    if hears and features.known and not features.redirect_target and link.running:
        # the kernel looks at the peer's settings when the device is set up (drivers/net/veth.c, veth_open)
        mend = f"ip link set {link.name} down && ip link set {link.name} up"
        found.append(f"{link.name}: the kernel refuses redirects to it, it was up before its peer had gro: {mend}")
    if peer is None:
        if capability.rights().has(capability.SYS_ADMIN):
            hint = f"{link.name}: its peer is in a namespace that cannot be looked into"
            found.append(f"{hint}; tcp fails if it offloads checksums: ethtool -K PEER tx off, at the peer")
    elif peer.transmit_checksum:
        found.append(
            f"{link.name}: tcp and udp from its peer {peer.name} would be forwarded without checksum, which the peer "
            f"leaves to the device: {peer.enter}ethtool -K {peer.name} tx off"
        )
    return found


def _port(link: Link) -> str:
    try:
        master = query.link(link.master).name
    except HoplineError:
        master = f"interface {link.master}"
    return (
        f"{link.name} is a port of {master}, which no longer sees what xdp takes from it: "
        f"use another interface or ip link set {link.name} nomaster"
    )


def _hardware(link: Link) -> list[str]:
    try:
        active = offloads(link.name)
    except HoplineError:
        return []  # a driver without ethtool has no such offload
    found = [
        f"{link.name}: {word} merges packets before xdp sees them: ethtool -K {link.name} {word} off"
        for word in ("lro", "rx-gro-hw")
        if active.on(word)
    ]
    if active.on("rxvlan"):
        found.append(
            f"{link.name}: the card takes vlan tags off before xdp sees them, so tagged packets would be forwarded as "
            f"untagged: ethtool -K {link.name} rxvlan off"
        )
    return found


def _inspect(index: int, enter: str) -> Peer | None:
    try:
        link = query.link(index)
        active = offloads(link.name)
    except HoplineError:
        return None
    return Peer(link.name, enter, active.on("gro"), link.xdp_id != 0, active.on("tx"))


def _namespace_of(netnsid: int) -> tuple[Path, str] | None:
    """(file, shell prefix) of the namespace that this one numbers `netnsid`."""
    seen: set[int] = set()
    with Socket(NETLINK_ROUTE) as netlink:
        for path, enter in _candidates():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # a process that ended, or one that is not ours to look at
            try:
                inode = os.fstat(descriptor).st_ino
                if inode not in seen and _number_of(netlink, descriptor) == netnsid:
                    return path, enter
                seen.add(inode)
            finally:
                os.close(descriptor)
    return None


def _number_of(netlink: Socket, descriptor: int) -> int:
    body = bytes(4) + attribute(_NETNSA_FD, struct.pack("=I", descriptor))
    try:
        answer = netlink.request(_RTM_GETNSID, body, asked="number a namespace")[0]
    except HoplineError:
        return -1  # a file in /run/netns that is no namespace
    return signed(attributes(answer, 4).get(_NETNSA_NSID), default=-1)


def _candidates() -> Iterator[tuple[Path, str]]:
    for name in netns.names():
        yield netns.path_of(name), f"ip netns exec {name} "
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            path = netns.path_of(int(entry.name))
            yield path, f"nsenter --net={path} "
