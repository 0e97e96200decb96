"""The router of the packet tables: an operator's entries and the kernel's routes, of every kind there is."""

from bpf.pipeline import Hop


def hop(number: int, **more) -> Hop:
    """A next hop of its own MACs."""
    return Hop(f"02:00:00:00:0e:{number:02x}", f"02:00:00:00:0f:{number:02x}", **more)


EXACT, P26, P24, P16, DEFAULT6 = hop(1), hop(2), hop(3), hop(4), hop(5)
EXACT6, P64, P48, P127 = hop(6), hop(7), hop(8), hop(9)
SMALL, HUGE, SMALL6 = hop(10, mtu=576), hop(11, mtu=65535), hop(12, mtu=1280)

ENTRIES = {
    "198.51.100.7": EXACT,
    "198.51.100.64/26": P26,
    "198.51.100.0/24": P24,
    "198.51.0.0/16": P16,
    "198.51.100.5": SMALL,
    "198.51.100.201": hop(20, state="UNRESOLVED"),
    "198.51.100.202": hop(21, state="NO_DEVICE"),
    "198.51.100.203": hop(22, state="RETIRING"),
    "198.51.100.204": hop(23, slot=200),
    "2001:db8:f::7": EXACT6,
    "2001:db8:f::/64": P64,
    "2001:db8:f::/48": P48,
    "2001:db8:f::a/127": P127,
    "2001:db8:f::5": SMALL6,
    "2001:db8:f::c9": hop(24, state="UNRESOLVED"),
    "2001:db8:f::ca": hop(25, state="NO_DEVICE"),
    # an operator's entry does not make the router's own addresses, or multicast, forwardable
    "10.0.2.1": hop(26),
    "2001:db8:2::1": hop(27),
    "224.0.0.0/4": hop(28),
    "127.0.0.0/8": hop(29),
    "ff00::/8": hop(30),
}
ROUTES = (
    "203.0.113.0/25 via 10.0.2.2",
    "203.0.113.128/25 via 10.0.2.2 mtu lock 1000",
    "unreachable 192.0.2.0/30",
    "blackhole 192.0.2.4/30",
    "prohibit 192.0.2.8/30",
    "192.0.2.16/30 encap ip id 5 dst 10.0.2.9 dev out0",
    "192.0.2.20/30 dev unslotted",
    "2001:db8:a::/64 via 2001:db8:2::2",
    "2001:db8:b::/64 via 2001:db8:2::2 mtu lock 1400",
    "unreachable 2001:db8:c::/64",
    "2001:db8:d::/64 encap seg6 mode encap segs 2001:db8:2::9 dev out0",
    "2001:db8:e::/64 dev unslotted",
)
