"""The story of `hopline lab forward`: a ping that could not arrive is forwarded at XDP, and its path is changed.

Machines, devices and addresses are those of the experiment that Hopline's `forward` grew out of: A is the
forwarding node, B the client, C the server with two links, and both gateways lead nowhere.
"""

from collections.abc import Mapping
from typing import TextIO

from hopline import lab as labs
from hopline.lab.node import API_PORT, Node
from hopline.lab.service import Service
from hopline.lab.story import Story
from hopline.lab.tcpdump import Echo
from hopline.lab.theatre import Theatre
from hopline.lab.topology import Namespace, Port, Topology, build

GATEWAY_MAC = "52:54:00:12:35:00"
A_ENP0S3, A_ENP0S9 = "08:00:27:f0:1e:41", "08:00:27:13:df:b6"
C_ENP0S3, C_ENP0S9 = "08:00:27:99:cf:ce", "08:00:27:f2:cb:f9"

B_ENP0S3 = "08:00:27:3b:8d:be"
A_CONTROL = "192.168.56.4"

CLIENT_LAN, SERVER_LAN, CONTROL_LAN = "lan-10.10.2", "lan-10.10.3", "lan-control"

TOPOLOGY = Topology(
    name="forward",
    switch="hl-sw",
    nodes=(
        Namespace(
            "hl-a",
            (
                Port("enp0s3", CLIENT_LAN, A_ENP0S3, ("10.10.2.4/24",)),
                Port("enp0s8", CONTROL_LAN, "08:00:27:f3:81:0e", (f"{A_CONTROL}/24",)),
                Port("enp0s9", SERVER_LAN, A_ENP0S9, ("10.10.3.6/24",)),
            ),
            routes=("default via 10.10.2.1 dev enp0s3",),
            forwards=True,
        ),
        Namespace(
            "hl-b",
            (
                Port("enp0s3", CLIENT_LAN, B_ENP0S3, ("10.10.2.7/24",)),
                Port("enp0s8", CONTROL_LAN, "08:00:27:66:a9:e8", ("192.168.56.103/24",)),
            ),
            routes=("default via 10.10.2.1 dev enp0s3 metric 100",),
        ),
        Namespace(
            "hl-c",
            (
                Port("enp0s3", CLIENT_LAN, C_ENP0S3, ("10.10.2.6/24",)),
                Port("enp0s8", CONTROL_LAN, "08:00:27:ac:af:9f", ("192.168.56.102/24",)),
                Port("enp0s9", SERVER_LAN, C_ENP0S9, ("10.10.3.5/24",)),
            ),
            routes=(
                "default via 10.10.2.1 dev enp0s3 metric 101",
                "default via 10.10.3.1 dev enp0s9 metric 102",
            ),
        ),
        Namespace(
            "hl-gw",
            (
                Port("enp0s3", CLIENT_LAN, GATEWAY_MAC, ("10.10.2.1/24",)),
                Port("enp0s9", SERVER_LAN, GATEWAY_MAC, ("10.10.3.1/24",)),
            ),
        ),
    ),
)

PICTURE = """\
   B ── enp0s3 10.10.2.7 ──┬── 10.10.2.0/24 ──┬── enp0s3 10.10.2.4 ── A ── enp0s9 10.10.3.6 ──┬── 10.10.3.0/24
        gateway 10.10.2.1 ─┘                  │                                               ├─ gateway 10.10.3.1
                                              └── enp0s3 10.10.2.6 ── C ── enp0s9 10.10.3.5 ──┘
   Both gateways (52:54:00:12:35:00) lead nowhere. A, B and C also share a control network, 192.168.56.0/24."""

MACS = {
    A_ENP0S3: "A.enp0s3",
    A_ENP0S9: "A.enp0s9",
    B_ENP0S3: "B",
    C_ENP0S3: "C.enp0s3",
    C_ENP0S9: "C.enp0s9",
    GATEWAY_MAC: "gateway",
}

TOOLS = ("ip", "nsenter", "timeout", "ethtool", "ping", "tcpdump", "curl")
CLIENT, SERVER = "10.10.2.7", "10.10.3.5"
# a reply that crossed A has lost one from its TTL
NONE, STRAIGHT, ACROSS_A = "0 of 3 answered", "3 of 3 answered, ttl 64", "3 of 3 answered, ttl 63"


def unreachable(play: Theatre, node: Node) -> None:
    """B's default gateway takes the frames and drops them."""
    play.story.step(
        "Unreachable: B pings C, and the gateway leads nowhere",
        "B sends its echo requests to the gateway's MAC address, and no reply comes.",
    )
    with play.watching("B enp0s3") as seen:
        answered = play.ping("B", SERVER)
    play.story.check("B pings C", NONE, answered)
    play.check_path("B enp0s3", "3 requests B > gateway", seen)


def neighbour_replaced(play: Theatre, node: Node) -> None:
    """B's gateway entry now holds A's MAC, so A's kernel forwards."""
    play.story.step(
        "B's gateway entry is pointed at A",
        "A's kernel forwards the requests to C; C answers straight from its first link, past A.",
    )
    play.do("B", f"ip neigh replace 10.10.2.1 dev enp0s3 lladdr {A_ENP0S3}")
    play.do("B", "ip neigh show 10.10.2.1")
    with play.watching("B enp0s3", "A enp0s3", "A enp0s9") as seen:
        answered = play.ping("B", SERVER)
    play.story.check("B pings C", STRAIGHT, answered)
    play.check_path("B enp0s3", "3 requests B > A.enp0s3, 3 replies C.enp0s3 > B", seen)
    play.check_path("A enp0s3", "3 requests B > A.enp0s3", seen)
    play.check_path("A enp0s9", "3 requests A.enp0s9 > C.enp0s9", seen)


def xdp(play: Theatre, node: Node) -> None:
    """Hopline takes A's two devices; what it forwards never reaches tcpdump."""
    play.story.step(
        "Hopline on A's devices",
        "XDP comes before tcpdump's place: on A it sees A's own pings and nothing of B's, which works; counters move.",
    )
    node.serve()
    node.hopline("interface add enp0s3")
    node.hopline("interface add enp0s9")
    play.acquaint("B", SERVER)
    node.count_from_here()
    with play.watching("A enp0s3", "A enp0s9") as seen:
        answered = play.ping("B", SERVER)
        # silence proves nothing unless the captures are awake
        play.acquaint("A", CLIENT)
        play.acquaint("A", SERVER)
    play.story.check("B pings C", STRAIGHT, answered)
    check_silence(play, seen)
    node.hopline("status")
    play.story.check("FORWARDED moved by", "3 on enp0s3, 0 on enp0s9", node.moved())


def check_silence(play: Theatre, seen: Mapping[str, list[Echo]]) -> None:
    """Nothing of B's ping on A's devices, though A's own ping was captured on each."""
    for port, own, near, far in (
        ("A enp0s3", "10.10.2.4", "A.enp0s3", "B"),
        ("A enp0s9", "10.10.3.6", "A.enp0s9", "C.enp0s9"),
    ):
        play.check_path(port, "nothing", seen, pinger=CLIENT)
        play.check_path(port, f"1 request {near} > {far}, 1 reply {far} > {near}", seen, pinger=own)


def server_link_down(play: Theatre, node: Node) -> None:
    """C loses the link it answered through."""
    play.story.step(
        "C's first link goes down",
        "requests still reach C through A; C's replies now go to its gateway on the other link, and die there.",
    )
    play.do("C", "ip link set dev enp0s3 down")
    play.do("C", "ip route")
    with play.watching("C enp0s9") as seen:
        answered = play.ping("B", SERVER)
    play.story.check("B pings C", NONE, answered)
    play.check_path("C enp0s9", "3 requests A.enp0s9 > C.enp0s9, 3 replies C.enp0s9 > gateway", seen)


def next_hop_replaced(play: Theatre, node: Node) -> None:
    """C's gateway entry now holds A's MAC as well."""
    play.story.step(
        "C's next hop is replaced by A",
        "both directions cross A at XDP, by what A learned from its routing table; tcpdump on A still sees nothing.",
    )
    play.do("C", f"ip neigh replace 10.10.3.1 dev enp0s9 lladdr {A_ENP0S9}")
    play.acquaint("B", SERVER)
    node.count_from_here()
    mark = node.trace_end()
    with play.watching("B enp0s3", "A enp0s3", "A enp0s9") as seen:
        answered = play.ping("B", SERVER)
    play.story.check("B pings C", ACROSS_A, answered)
    play.check_path("B enp0s3", "3 requests B > A.enp0s3, 3 replies A.enp0s3 > B", seen)
    play.check_path("A enp0s3", "nothing", seen)
    play.check_path("A enp0s9", "nothing", seen)
    play.story.check("FORWARDED moved by", "3 on enp0s3, 3 on enp0s9", node.moved())
    to_server, to_client = "enp0s9 A.enp0s9 > C.enp0s9", "enp0s3 A.enp0s3 > B"
    node.check_trace(mark, SERVER, 3, to_server)
    node.check_trace(mark, CLIENT, 3, to_client)
    node.hopline("forward show --origin learned")
    play.story.check("learned, to C", to_server, node.entry(SERVER, "learned"))
    play.story.check("learned, to B", to_client, node.entry(CLIENT, "learned"))
    node.hopline(f"forward get {SERVER}")


def changed_by_api(play: Theatre, node: Node) -> None:
    """A program on another machine moves the path with one POST, and moves it back."""
    play.story.step(
        "An entry is changed through the JSON API",
        "C's first link is back. The entry sends requests to C through it instead; deleting it sends them back.",
    )
    play.do("C", "ip link set dev enp0s3 up")
    play.acquaint("A", "10.10.2.6")
    index = play.device_index("A", "enp0s3")
    fields = {"ip": SERVER, "iface": index, "srcMac": A_ENP0S3, "dstMac": C_ENP0S3}
    play.story.check("UpdateForward", "code 200", node.change("B", "UpdateForward", **fields))
    expected = f"operator: device {index}, A.enp0s3 > C.enp0s3"
    play.story.check("QueryForward", expected, node.query("B", SERVER))
    with play.watching("C enp0s3", "C enp0s9") as seen:
        answered = play.ping("B", SERVER)
    play.story.check("B pings C", STRAIGHT, answered)
    play.check_path("C enp0s3", "3 requests A.enp0s3 > C.enp0s3, 3 replies C.enp0s3 > B", seen)
    play.check_path("C enp0s9", "nothing", seen)
    play.story.check("DeleteForward", "code 200", node.change("B", "DeleteForward", ip=SERVER))
    with play.watching("C enp0s3", "C enp0s9") as seen:
        answered = play.ping("B", SERVER)
    play.story.check("B pings C", STRAIGHT, answered)
    play.check_path("C enp0s3", "3 replies C.enp0s3 > B", seen)
    play.check_path("C enp0s9", "3 requests A.enp0s9 > C.enp0s9", seen)


STEPS = (unreachable, neighbour_replaced, xdp, server_link_down, next_hop_replaced, changed_by_api)


def look_around(play: Theatre, node: Node) -> None:
    """Say what --keep has left, and how to use it."""
    name = node.service.instance
    play.story.line("")
    play.story.say("The lab is left standing (--keep). Look around:")
    for each in (
        f"hopline status --instance {name}",
        f"hopline forward show --instance {name}",
        f"nsenter --net=/run/netns/hl-b ping {SERVER}",
        "nsenter --net=/run/netns/hl-c tcpdump -i enp0s9 -enn icmp",
        f"tail -f {node.service.log}",
    ):
        play.story.line(f"   # {each}")
    play.story.say("and remove it with: hopline lab down")


def tell(out: TextIO | None, keep: bool) -> int:
    """Build the network and tell every step; whoever calls removes what it made."""
    directory = labs.claim(TOPOLOGY.name, TOPOLOGY.namespace_names())
    build(TOPOLOGY)
    play = Theatre(Story(out), MACS)
    api = ("--fwd-api", f"{A_CONTROL}:{API_PORT}", "--fwd-api-allow", "192.168.56.0/24")
    service = Service("hl-a", labs.instance_name(TOPOLOGY.name), directory, ("--trace", *api))
    node = Node(play, "A", service, A_CONTROL)
    play.story.line("hopline lab forward", "bold")
    play.story.line(PICTURE)
    play.story.line("   Names below stand for MAC addresses: " + ", ".join(f"{n} {m}" for m, n in MACS.items()))
    for step in STEPS:
        step(play, node)
    code = play.story.conclude()
    if keep:
        look_around(play, node)
    return code


def run(keep: bool = False, out: TextIO | None = None) -> int:
    """Tell the whole story on `out` (stdout); 0 if every step showed what it should, else 1.

    With `keep` the lab is left standing. Raises HoplineError when the story cannot be told at all; nothing is left
    behind then, nor after any other exception.
    """
    return labs.told(TOPOLOGY.name, TOOLS, lambda: tell(out, keep), keep)
