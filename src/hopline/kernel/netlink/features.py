"""Which devices run XDP in the driver and which take a redirect (Documentation/netlink/specs/netdev.yaml, 6.3)."""

import struct
from dataclasses import dataclass

from hopline.errors import KernelError
from hopline.kernel.netlink import query
from hopline.kernel.netlink.types import Link
from hopline.kernel.netlink.wire import NETLINK_GENERIC, GenericFamily, Socket, attribute, attributes, number

_DEV_GET = 1
_IFINDEX, _XDP_FEATURES = 1, 3
_BASIC, _REDIRECT, _NDO_XMIT, _NDO_XMIT_SG = 0x1, 0x2, 0x4, 0x40

# devices whose frames are handled above or below the place a redirect enters, by IFLA_INFO_KIND
_NEVER_GENERIC = {"bridge", "vlan", "wireguard", "vrf", "openvswitch", "ifb", "nlmon", "dummy"}
# kinds whose driver has ndo_xdp_xmit, for kernels that cannot be asked; a veth depends on its peer
_XMIT_KINDS = {"tun", "veth"}


@dataclass(frozen=True, slots=True)
class DeviceFeatures:
    """What XDP can do with a device. `known` False: the kernel cannot be asked, the rest is a guess by kind.

    redirect_target        a native program's XDP_REDIRECT to it arrives
    redirect_target_frags  also frames larger than a page
    native_xdp             its driver runs XDP programs that redirect
    generic_target         a generic program's redirect to it arrives
    """

    redirect_target: bool
    redirect_target_frags: bool
    native_xdp: bool
    known: bool
    generic_target: bool


def device_features(which: Link | int | str) -> DeviceFeatures:
    """Of one interface; NotFound when there is none."""
    link = which if isinstance(which, Link) else query.link(which)
    return _features(link, _ask(link.index).get(link.index))


def all_features() -> dict[int, DeviceFeatures]:
    """Of every interface, by index."""
    bits = _ask(None)
    return {link.index: _features(link, bits.get(link.index)) for link in query.links()}


def told() -> bool:
    """Return whether this kernel tells them, which it does since 6.3."""
    try:
        with Socket(NETLINK_GENERIC) as netlink:
            GenericFamily(netlink, "netdev")
    except KernelError:
        return False
    return True


def _features(link: Link, bits: int | None) -> DeviceFeatures:
    generic = link.ethernet and link.kind not in _NEVER_GENERIC
    if bits is None:
        guess = generic and (link.kind in _XMIT_KINDS or link.kind == "")
        return DeviceFeatures(guess, False, guess, False, generic)
    target = link.ethernet and bool(bits & _NDO_XMIT)
    native = bits & (_BASIC | _REDIRECT) == _BASIC | _REDIRECT
    return DeviceFeatures(target, target and bool(bits & _NDO_XMIT_SG), native, True, generic)


def _ask(index: int | None) -> dict[int, int]:
    """xdp-features bits by interface; empty where the kernel has no netdev family or no such device."""
    try:
        with Socket(NETLINK_GENERIC) as netlink:
            family = GenericFamily(netlink, "netdev")
            head = struct.pack("=BBH", _DEV_GET, 1, 0)
            if index is None:
                answers = [body for _, body in netlink.dump(family.number, head, asked="list xdp features")]
            else:
                body = head + attribute(_IFINDEX, struct.pack("=I", index))
                answers = netlink.request(family.number, body, asked=f"read xdp features of interface {index}")
    except KernelError:
        return {}
    found = (attributes(answer, 4) for answer in answers)
    return {number(entry[_IFINDEX]): number(entry.get(_XDP_FEATURES)) for entry in found}
