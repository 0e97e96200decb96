"""Words for what the program says in numbers."""

from hopline.kernel.netlink.types import Neighbour

# bpf_fib_lookup's return codes (include/uapi/linux/bpf.h), as an operator would say them
FIB_WORDS = {
    0: "the FIB has a route and a neighbour",
    1: "the FIB's route is a blackhole",
    2: "the FIB's route says unreachable",
    3: "the FIB's route says prohibited",
    4: "the FIB does not forward it: no route, or not unicast",
    5: "the FIB does not forward it: forwarding is off on the interface it came in by",
    6: "the FIB's route has a lightweight tunnel, which is the kernel's",
    7: "the FIB has no neighbour for the next hop: the kernel will ask",
    8: "it is larger than the route's MTU",
    9: "the FIB has no source address for it",
}
# what an operator wants to know behind a verdict's name
VERDICT_WORDS = {
    "FORWARDED": "forwarded by XDP",
    "PASS_NOT_IP": "passed: it is neither IPv4 nor IPv6",
    "PASS_MALFORMED": "passed: its header does not add up",
    "PASS_VLAN": "passed: it has a VLAN tag",
    "PASS_OTHER_HOST": "passed: it is addressed to another MAC",
    "PASS_LOCAL": "passed: it is an address of this host",
    "PASS_MULTICAST": "passed: multicast or broadcast",
    "PASS_MARTIAN": "passed: no router forwards this address",
    "PASS_OPTIONS": "passed: options that a router must look at",
    "PASS_TTL": "passed: it has no hop left",
    "PASS_NO_NEIGHBOUR": "passed: the next hop has no MAC yet, the kernel asks for it",
    "PASS_NO_ROUTE": "passed: the kernel's FIB does not forward it",
    "PASS_NOT_LEARNING": "passed: no operator entry covers it, and learning is off on this interface",
    "PASS_FORWARDING_OFF": "passed: forwarding is off",
    "PASS_ENCAPSULATED_ROUTE": "passed: the route has a lightweight tunnel",
    "PASS_NO_EGRESS": "passed: the next hop's device is gone, down, or cannot take a redirect",
    "PASS_HAIRPIN": "passed: it would leave by the interface it came in by, and the kernel may owe an ICMP redirect",
    "PASS_NO_LEASE": "passed: the lease has run out",
    "PASS_TOO_BIG": "passed: larger than the next hop's MTU",
    "BALANCED": "sent to a backend by XDP, in an outer header",
    "DECAPSULATED": "its outer header is taken off, and the kernel gets what was in it",
    "ANSWERED_ECHO": "an echo request to a VIP, answered by XDP",
    "ANSWERED_ERROR": "answered by XDP with an ICMP error",
    "DROP_NO_BACKEND": "dropped: no backend takes it, or nothing leads to the one that does",
    "DROP_FRAGMENT": "dropped: a fragment to a VIP of this host, for a service that needs ports",
    "DROP_TOO_BIG": "dropped: too big for the way to its backend, and it may be neither fragmented nor reported",
    "DROP_NOT_ACCEPTED": "dropped: encapsulated by a source that is not accepted",
    "DROP_MALFORMED": "dropped: what is in the outer header is no right packet",
}
REFUSAL_WORDS = {
    "REFUSAL_NO_SLOT": "has no slot in Hopline's tables: it came just now, or there are too many devices",
    "REFUSAL_NO_REDIRECT": "takes no redirect in {mode} mode: it is gone, down, or of a kind that cannot",
    "REFUSAL_ONE_BUFFER": "takes a frame in one buffer only, and this one is in several",
}


def verdict_words(verdict: str) -> str:
    """Return a verdict in words; its name in lower case where there are none yet."""
    return VERDICT_WORDS.get(verdict, verdict.lower().replace("_", " "))


def age(seconds: float) -> str:
    """Return a span of time as a person says it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def neighbour_words(entry: Neighbour, unconfirmed_s: float) -> str:
    """Return how fresh a neighbour is."""
    if entry.permanent:
        return entry.state
    if entry.state == "reachable":
        return f"reachable, confirmed {age(unconfirmed_s)} ago"
    return f"{entry.state}, not confirmed for {age(unconfirmed_s)}"


def octets(count: int) -> str:
    """Return a number of octets."""
    return f"{count} octet" + ("" if count == 1 else "s")
