"""The ways through the pipeline that are worth knowing the price of, and what one packet costs on each.

The emulator runs what the kernel's verifier made of the program; its verdict, its packet and every value it wrote must
then be the kernel's own, or its counts would be of something else.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from emulate import Cost, HiddenAddresses, emulated, jiffies, names_shown
from scapy.layers.inet import IPOption_NOP

from bpf.balance_maps import ESTABLISHED, GUE
from bpf.balanced import CLIENT4, CLIENT6, VIP4, VIP6, Balanced, options4, tcp
from bpf.frames import FROM4, IP, UDP, Dot1Q, Ether, frame, ip4, ip6, raw
from bpf.pipeline import NEAR_MAC, Hop, Pipeline
from hopline.kernel import Program, netns

EXACT4, EXACT6, PREFIX4, PREFIX6 = "198.51.100.7", "2001:db8:f::7", "198.51.100.0/24", "2001:db8:f::/64"
LEARNED4, LEARNED6 = "10.0.2.2", "2001:db8:2::2"
HOP = Hop()
ARP = raw(Ether(dst="ff:ff:ff:ff:ff:ff", src=NEAR_MAC, type=0x0806)) + bytes(46)
# fixed, since by chance a source's bit may be one of our own addresses', which then are asked for
MIX_ADD, MIX_MULTIPLY = 0x2545F491, 0x9E3779B1


@dataclass(frozen=True)
class Way:
    """One way: the packet, the verdict, what is prepared, and whether the same packet has been there before."""

    name: str
    packet: bytes
    verdict: str
    prepare: Callable[[Pipeline], object] = lambda pipeline: None
    warm: bool = False
    balancing: bool = False

    def __str__(self) -> str:
        return self.name


def entry(to: str, **hop) -> Callable[[Pipeline], object]:
    """The operator has entered `to`."""
    return lambda pipeline: pipeline.forward(to, Hop(**hop))


def learning(pipeline: Pipeline) -> None:
    """Learning is on."""
    pipeline.learn()


def neighbour_known(pipeline: Pipeline) -> None:
    """Another destination has been learned by the same next hop."""
    pipeline.learn()
    pipeline.sh("ip route add 192.0.2.128/25 via 10.0.2.2")
    pipeline.run(ip4("192.0.2.129"))
    pipeline.sh("ip route del 192.0.2.128/25")


def no_lease(prepare: Callable[[Pipeline], object]) -> Callable[[Pipeline], object]:
    """The daemon has not been heard of for a second."""

    def prepared(pipeline: Pipeline) -> None:
        prepare(pipeline)
        pipeline.leased = False
        pipeline.datapath.drop_lease()

    return prepared


def beside(*prepare: Callable[[Pipeline], object]) -> Callable[[Pipeline], object]:
    """All of these."""
    return lambda pipeline: [each(pipeline) for each in prepare]


def service(state: str = "CLOSED", ipv6: bool = False, outer6: bool = False, known: bool = False, **backend):
    """A service of three backends is there, its slots all in this state; `known`: the flow is in the table."""

    def prepared(pipeline: Pipeline) -> None:
        balanced = Balanced(pipeline, pipeline.balance)
        balanced.maps.clear()
        rows = balanced.backends(3, ipv6=ipv6 or outer6, **backend)
        made = balanced.maps.service(VIP6 if ipv6 else VIP4, "80", "tcp", rows)
        made.fill(0, 1 if state == "OPEN" else 0, state)
        if known:
            hash = made.hash_of(CLIENT6 if ipv6 else CLIENT4, 4000, 80)
            balanced.maps.put_flow(made, hash, 2, flags=ESTABLISHED)

    return prepared


WAYS = [
    Way("IPv4 cached, operator entry", ip4(EXACT4), "FORWARDED", entry(EXACT4), warm=True),
    Way("IPv4 cached, learned", ip4(LEARNED4), "FORWARDED", learning, warm=True),
    Way("IPv6 cached, operator entry", ip6(EXACT6), "FORWARDED", entry(EXACT6), warm=True),
    Way("IPv6 cached, learned", ip6(LEARNED6), "FORWARDED", learning, warm=True),
    Way("IPv4 cached, padded frame", frame(IP(src=FROM4, dst=EXACT4), UDP()) + bytes(18), "FORWARDED", entry(EXACT4),
        warm=True),
    Way("IPv4 cached, large frame", ip4(EXACT4, bytes(1700)), "FORWARDED", entry(EXACT4, mtu=9000), warm=True),
    Way("IPv4 new, exact entry", ip4(EXACT4), "FORWARDED", entry(EXACT4)),
    Way("IPv4 new, prefix", ip4(EXACT4), "FORWARDED", entry(PREFIX4)),
    Way("IPv4 new, FIB", ip4(LEARNED4), "FORWARDED", learning),
    Way("IPv4 new, FIB, next hop known", ip4(LEARNED4), "FORWARDED", neighbour_known),
    Way("IPv6 new, exact entry", ip6(EXACT6), "FORWARDED", entry(EXACT6)),
    Way("IPv6 new, prefix", ip6(EXACT6), "FORWARDED", entry(PREFIX6)),
    Way("IPv6 new, FIB", ip6(LEARNED6), "FORWARDED", learning),
    Way("IPv4 without a lease, exact entry", ip4(EXACT4), "FORWARDED", no_lease(entry(EXACT4))),
    Way("IPv4 without a lease, no entry", ip4(LEARNED4), "PASS_NO_LEASE", no_lease(learning)),
    Way("IPv4 for this host, new", ip4("10.0.2.1"), "PASS_LOCAL", learning),
    Way("IPv4 for this host, cached", ip4("10.0.2.1"), "PASS_LOCAL", learning, warm=True),
    Way("IPv6 for this host, cached", ip6("2001:db8:2::1"), "PASS_LOCAL", learning, warm=True),
    Way("not IP", ARP, "PASS_NOT_IP"),
    Way("VLAN", raw(Ether(dst="02:00:00:00:01:01", src=NEAR_MAC) / Dot1Q(vlan=7) / IP(src=FROM4, dst=EXACT4) / UDP()),
        "PASS_VLAN"),
    Way("other host", frame(IP(src=FROM4, dst=EXACT4), UDP(), dst="02:00:00:00:01:03"), "PASS_OTHER_HOST"),
    Way("multicast", frame(IP(src=FROM4, dst="224.0.0.5"), UDP(), dst="01:00:5e:00:00:05"), "PASS_MULTICAST"),
    Way("IPv4 wrong checksum", ip4(EXACT4, chksum=1), "PASS_MALFORMED"),
    Way("IPv4 options", ip4(EXACT4, options=b"\x01" * 4), "PASS_OPTIONS"),
    Way("IPv4 cached, TTL", ip4(EXACT4, ttl=1), "PASS_TTL", entry(EXACT4), warm=True),
    Way("IPv6 cached, TTL", ip6(EXACT6, hlim=1), "PASS_TTL", entry(EXACT6), warm=True),
    Way("IPv4 cached, too big", ip4(EXACT4, bytes(700)), "PASS_TOO_BIG", entry(EXACT4, mtu=576), warm=True),
    Way("IPv4 cached, entry without neighbour", ip4(EXACT4), "PASS_NO_NEIGHBOUR", entry(EXACT4, state="UNRESOLVED"),
        warm=True),
    Way("IPv4 FIB, no neighbour", ip4("10.0.2.77"), "PASS_NO_NEIGHBOUR", learning, warm=True),
    Way("IPv4 FIB, no route", ip4("100.64.0.1"), "PASS_NO_ROUTE", learning, warm=True),
    Way("IPv4 no entry, learning off", ip4(LEARNED4), "PASS_NOT_LEARNING", warm=True),
    Way("IPv4 cached, beside a service", ip4(EXACT4), "FORWARDED", beside(service(), entry(EXACT4)), warm=True,
        balancing=True),
    Way("IPv4 service, closed", tcp(), "BALANCED", service(), balancing=True),
    Way("IPv4 service, closed, SYN", tcp(flags="S"), "BALANCED", service(), balancing=True),
    Way("IPv4 service, open, in the table", tcp(), "BALANCED", service("OPEN", known=True), balancing=True),
    Way("IPv4 service, open, SYN", tcp(flags="S"), "BALANCED", service("OPEN"), balancing=True),
    Way("IPv4 service, residual, not in the table", tcp(), "BALANCED", service("RESIDUAL"), balancing=True),
    Way("IPv4 service, GUE", tcp(), "BALANCED", service(encapsulation=GUE), balancing=True),
    Way("IPv4 service, IPv6 outside", tcp(), "BALANCED", service(outer6=True), balancing=True),
    Way("IPv6 service, closed", tcp(VIP6), "BALANCED", service(ipv6=True), balancing=True),
    Way("IPv4 service, options", options4(IPOption_NOP()), "BALANCED", service(), balancing=True),
]  # fmt: skip


def obstacle(program: Program) -> str:
    """Why what this program costs cannot be counted here, or ""."""
    if shutil.which("clang") is None:
        return "clang is not installed"
    try:
        names_shown(program)
    except HiddenAddresses as error:
        return str(error)
    return ""


@contextlib.contextmanager
def on_one_cpu() -> Iterator[None]:
    """This thread stays on one CPU, so that per-CPU values are those of one."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def fixed_key(pipeline: Pipeline) -> Iterator[None]:
    """The hash has a key that is the same in every run."""
    state = pipeline.datapath.maps["state"].mmap()
    before = int(state["mix_add"][0]), int(state["mix_multiply"][0])

    def change(add: int, multiply: int) -> None:
        state["mix_add"][0], state["mix_multiply"][0] = add, multiply
        pipeline.datapath.refresh_bloom()
        pipeline.datapath.bump_generation()

    change(MIX_ADD, MIX_MULTIPLY)
    try:
        yield
    finally:
        change(*before)


def cost_of(pipeline: Pipeline, way: Way) -> Cost:
    """Prepare a way and count its packet."""
    pipeline.reset()
    with fixed_key(pipeline):
        way.prepare(pipeline)
        if way.warm:
            pipeline.run(way.packet)
        return counted(pipeline, way.packet, way.verdict)


def counted(pipeline: Pipeline, packet: bytes, verdict: str) -> Cost:
    """Count a packet, and see that the kernel does the same with it, to every octet it writes."""
    # before the lease is extended, so that it holds however long this takes
    now = jiffies()
    if pipeline.leased:
        pipeline.datapath.extend_lease()
    with on_one_cpu(), netns.inside(pipeline.router):
        cost = emulated(pipeline.program, packet, pipeline.in_index, now)
        outcome = pipeline.run(packet)
        assert outcome.verdict == verdict
        assert (cost.action, cost.data.hex()) == (outcome.action, outcome.data.hex()), "not what the kernel did"
        compare_written(pipeline, cost)
    return cost


def compare_written(pipeline: Pipeline, cost: Cost) -> None:
    """What the emulator wrote into maps is what the program wrote."""
    for name, values in cost.written.items():
        table = pipeline.datapath.maps[name]
        for key, value in values.items():
            found = table.get(key)
            if table.per_cpu:
                found = found[min(os.sched_getaffinity(0))]
            assert found.tobytes() == value, f"{name}[{key!r}] is {found}, by the emulator {value.hex()}"
