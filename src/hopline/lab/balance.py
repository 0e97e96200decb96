"""The story of `hopline lab balance`: three real servers behind one address, changed while downloads run.

Addresses are those of the experiment that Hopline's `balance` grew out of: VIP 192.168.33.33 on the node 192.168.33.10,
servers 192.168.33.11 to .13, client 192.168.33.1, all on one LAN. Servers take the outer header off by Hopline's decap.
"""

import re
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from hopline import lab as labs
from hopline.lab.node import Node
from hopline.lab.servers import Downloads, RealServer, sysctl
from hopline.lab.service import Service
from hopline.lab.shell import enter
from hopline.lab.shell import run as run_command
from hopline.lab.story import Story
from hopline.lab.tcpdump import Tcpdump
from hopline.lab.theatre import Theatre
from hopline.lab.topology import Namespace, Port, Topology, build

VIP, CLIENT, NODE = "192.168.33.33", "192.168.33.1", "192.168.33.10"
SERVERS = {"rs1": "192.168.33.11", "rs2": "192.168.33.12", "rs3": "192.168.33.13"}
LAN = "lan-192.168.33"
PREFIX = "hl-lb-"


def _machine(host: str, mac: str, address: str) -> Namespace:
    return Namespace(f"{PREFIX}{host}", (Port("eth1", LAN, mac, (f"{address}/24",)),))


CLIENT_MAC, NODE_MAC = "0a:00:27:00:00:01", "08:00:27:07:da:cb"
SERVER_MACS = {"rs1": "08:00:27:96:39:d5", "rs2": "08:00:27:96:39:d6", "rs3": "08:00:27:96:39:d7"}
TOPOLOGY = Topology(
    name="balance",
    switch=f"{PREFIX}switch",
    nodes=(
        _machine("client", CLIENT_MAC, CLIENT),
        _machine("node", NODE_MAC, NODE),
        *(_machine(host, SERVER_MACS[host], address) for host, address in SERVERS.items()),
    ),
)
MACS = {CLIENT_MAC: "client", NODE_MAC: "node", **{mac: host for host, mac in SERVER_MACS.items()}}

PICTURE = """\
   client 192.168.33.1 ──┬── node 192.168.33.10, VIP 192.168.33.33
                         ├── rs1 192.168.33.11 ─┐
                         ├── rs2 192.168.33.12  ├ each has the VIP on lo, and answers no ARP for it
                         └── rs3 192.168.33.13 ─┘"""

TOOLS = ("ip", "nsenter", "timeout", "ethtool", "sysctl", "tcpdump", "curl")
CURLS, DOWNLOADS = 45, 24
SETTLE_SECONDS, POLL_SECONDS = 10.0, 0.1
DOWNLOAD_SECONDS = 60.0
ALL_UP = "rs1 up, rs2 up, rs3 up"
# tcpdump -enn: MACs, then an outer header and the inner, or the inner alone
_OUTER = re.compile(r"(\S+) > (\S+), .*?: ([\d.]+) > ([\d.]+): (?:IP )?([\d.]+)\.\d+ > ([\d.]+)\.80: ")
_PLAIN = re.compile(r"(\S+) > (\S+), ethertype IPv4[^>]*: ([\d.]+)\.80 > ([\d.]+)\.\d+: ")


class Stand(Theatre):
    """Machines by their name: `rs1` is namespace `hl-lb-rs1`."""

    @staticmethod
    def namespace(host: str) -> str:
        """The namespace of a machine."""
        return f"{PREFIX}{host}"


@dataclass
class Cast:
    """Who takes part."""

    play: Stand
    node: Node
    servers: dict[str, RealServer]
    downloads: Downloads
    _port: int = field(default=20_000)

    @property
    def story(self) -> Story:
        """The story that is being told."""
        return self.play.story

    def ports(self, count: int) -> int:
        """The first of so many source ports that no connection has had."""
        first, self._port = self._port, self._port + count
        return first

    def end(self) -> None:
        """End all that was started."""
        self.downloads.end()
        for server in self.servers.values():
            server.end()
        self.node.service.stop()

    def answers(self, count: int = CURLS) -> Counter[str]:
        """Ask for the page so often, each time from another port; who answered, how often."""
        first = self.ports(count)
        ask = f"curl -sS -m 3 --local-port $port http://{VIP}/"
        line = f"for port in $(seq {first} {first + count - 1}); do {ask}; done | sort | uniq -c"
        self.story.command("client", line)
        # -m bounds each, and a service that has just lost a server may lose the first few
        done = run_command(enter(self.play.namespace("client"), ["sh", "-c", line]), check=False, timeout=60)
        said = done.stdout.splitlines()
        self.story.output(said + done.stderr.splitlines())
        return Counter({words[1]: int(words[0]) for words in (each.split() for each in said) if len(words) == 2})

    def check_answers(self, *hosts: str) -> None:
        """All curls are answered, by exactly these servers, and by none of them less than half of its share."""
        found = self.answers()
        shares = [host for host in sorted(found) if found[host] * 2 * len(hosts) >= CURLS]
        seen = f"{found.total()} of {CURLS}, by {', '.join(sorted(found)) or 'nobody'}"
        self.story.check("curls answered", f"{CURLS} of {CURLS}, by {', '.join(hosts)}", seen)
        self.story.check("with at least half of an equal share", ", ".join(hosts), ", ".join(shares))

    def states(self) -> str:
        """The backends as the node sees them: `rs1 up, rs2 down, rs3 up`."""
        names = {address: host for host, address in SERVERS.items()}
        (row,) = self.node.service.json("backend", "show", "web")
        told = {names[each["address"]]: each["state"] for each in row["backends"]}
        return ", ".join(f"{host} {told[host]}" for host in sorted(told))

    def check_states(self, expected: str) -> None:
        """Wait until the node sees its backends so, and show them."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (seen := self.states()) != expected and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self.node.hopline("service show")
        self.story.check("backends", expected, seen)

    def check_downloads(self) -> None:
        """None has ended, but those of a server that died."""
        alive = DOWNLOADS - self.downloads.running()
        self.story.check("downloads that have ended", "0", str(alive))


def nobody(cast: Cast) -> None:
    """Real servers have the VIP, and nobody says where it is."""
    cast.story.step(
        "Three real servers, and nobody in front of them",
        "each has the VIP on lo and, as behind any director, answers no ARP for it: curl finds nobody.",
    )
    for host, server in cast.servers.items():
        cast.play.do(host, "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2")
        cast.play.do(host, f"ip address add {VIP}/32 dev lo")
        server.serve_pages()
    ask = f"curl -sS -m 1 http://{VIP}/"
    cast.story.command("client", ask)
    asked = run_command(enter(cast.play.namespace("client"), ask.split()), check=False)
    cast.story.output(asked.stderr.splitlines())
    cast.story.check("curl", "no answer", asked.stdout.strip() if asked.returncode == 0 else "no answer")


def decaps(cast: Cast) -> None:
    """Hopline on the servers."""
    cast.story.step(
        "Hopline on the real servers",
        "it takes the outer header off what the node sends, and off nothing else.",
    )
    backends = {host: Node(cast.play, host, server.service, server.address) for host, server in cast.servers.items()}
    with ThreadPoolExecutor() as pool:
        list(pool.map(Node.serve, backends.values()))
    for host, backend in backends.items():
        server = cast.servers[host]
        backend.hopline("interface add eth1")
        backend.hopline(f"decap add --local {server.address} --from {NODE}/32")


def balanced(cast: Cast) -> None:
    """Hopline on the node."""
    cast.story.step(
        "Hopline on the node",
        "the VIP is put on eth1, so its kernel answers ARP; a curl goes to one of the three, about as often to each.",
    )
    cast.node.serve()
    cast.node.hopline("interface add eth1")
    checked = "--check tcp --interval 0.5 --rise 2 --fall 2"
    cast.node.hopline(
        f"service add web --vip {VIP} --port 80-81 --protocol tcp --encap ipip --local {NODE} --own on-wire {checked}"
    )
    for address in SERVERS.values():
        cast.node.hopline(f"backend add web {address}")
    cast.check_states(ALL_UP)
    cast.check_answers(*SERVERS)


def seen_on_the_wire(cast: Cast) -> None:
    """Outer header to the server, and the reply past the node."""
    cast.story.step(
        "The packets themselves",
        "to the server: from the node, an outer header around the client's packet; back: straight to the client.",
    )
    wire = Tcpdump(f"{PREFIX}switch", "lb-rs1-eth1", f"proto 4 or host {VIP}")
    cast.story.command("switch", f"{wire.command} &")
    with wire:
        found = cast.answers(20)
    cast.story.line("   tcpdump on the switch's port to rs1:")
    cast.story.output(wire.lines or ["(nothing)"])
    outer = {match.groups() for line in wire.lines if (match := _OUTER.search(line))}
    plain = {match.groups() for line in wire.lines if (match := _PLAIN.search(line))}
    told = {f"{src} > {dst}: {out} > {to}: {inner} > {vip}" for src, dst, out, to, inner, vip in named(outer)}
    cast.story.check("to rs1", f"node > rs1: {NODE} > {SERVERS['rs1']}: {CLIENT} > {VIP}", "; ".join(sorted(told)))
    back = {f"{src} > {dst}: {source} > {to}" for src, dst, source, to in named(plain)}
    cast.story.check("from rs1", f"rs1 > client: {VIP} > {CLIENT}", "; ".join(sorted(back)))
    cast.story.check("one of the answers was rs1's", "yes", "yes" if found["rs1"] else "no")


def named(found: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """The same with machines' names for MACs."""
    return {tuple(MACS.get(word, word) for word in words) for words in found}


def downloads_begin(cast: Cast) -> None:
    """Long connections, which all that follows must not break."""
    cast.story.step(
        f"{DOWNLOADS} slow downloads begin",
        "all that follows happens while they run; only those of a server that dies may break.",
    )
    cast.downloads.begin(f"http://{VIP}/large", cast.ports(DOWNLOADS), DOWNLOADS)
    deadline = time.monotonic() + SETTLE_SECONDS
    while cast.downloads.by_server()["nobody"] and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    found = cast.downloads.by_server()
    cast.story.line("   " + ", ".join(f"{count} from {host}" for host, count in sorted(found.items())))
    cast.story.check("downloads come from", ", ".join(SERVERS), ", ".join(sorted(found)))


def drained(cast: Cast) -> None:
    """A server takes no new flow and keeps its old ones; then it is back."""
    cast.story.step("rs1 is drained, and undrained", "no new connection goes there; its downloads go on.")
    cast.node.hopline(f"backend drain web {SERVERS['rs1']}")
    cast.check_answers("rs2", "rs3")
    cast.node.hopline("service show web --flows")
    cast.check_downloads()
    cast.node.hopline(f"backend undrain web {SERVERS['rs1']}")
    cast.check_answers(*SERVERS)


def killed(cast: Cast) -> None:
    """A server dies: health checks take it out; then it is back."""
    cast.story.step("rs2's cable is pulled", "the node's check fails twice, and the others get its share at once.")
    cast.play.do("rs2", "ip link set dev eth1 down")
    cast.check_states("rs1 up, rs2 down, rs3 up")
    cast.check_answers("rs1", "rs3")
    cast.story.step("rs2 comes back", "two checks succeed, and it gets its share again.")
    cast.play.do("rs2", "ip link set dev eth1 up")
    cast.check_states(ALL_UP)
    cast.check_answers(*SERVERS)


def removed(cast: Cast) -> None:
    """A server is taken out of the service; its flows have a minute to end."""
    cast.story.step("rs3 is removed", "its downloads have a minute's grace; what is new goes to the others.")
    cast.node.hopline(f"backend del web {SERVERS['rs3']} --grace 60")
    cast.check_answers("rs1", "rs2")


def daemon_killed(cast: Cast) -> None:
    """The daemon is killed and comes back; packets do not notice."""
    cast.story.step("The node's daemon is killed, and started again", "maps and programs stay: nothing breaks.")
    cast.story.command("node", f"kill -9 $(cat {cast.node.service.pid_file})")
    cast.node.service.stop(signal.SIGKILL)
    cast.check_answers("rs1", "rs2")
    cast.node.serve()
    cast.check_answers("rs1", "rs2")
    cast.story.line(f"   {cast.downloads.running()} downloads go on")


def downloads_end(cast: Cast) -> None:
    """What became of the downloads."""
    cast.story.step("The downloads end", "those of rs1 and rs3 whole; those of rs2 broke when it died.")
    began = cast.downloads.by_server()
    cast.downloads.wait(DOWNLOAD_SECONDS)
    cast.story.output(cast.downloads.complaints())
    broken = cast.downloads.broken()
    for host in SERVERS:
        expected = began[host] if host == "rs2" else 0
        told = f"{{}} of {began[host]} broken"
        cast.story.check(f"downloads from {host}", told.format(expected), told.format(broken[host]))
    cast.node.hopline("service show --stats")


STEPS = (
    nobody,
    decaps,
    balanced,
    seen_on_the_wire,
    downloads_begin,
    drained,
    killed,
    removed,
    daemon_killed,
    downloads_end,
)


def look_around(cast: Cast) -> None:
    """Say what --keep has left, and how to use it."""
    name = cast.node.service.instance
    cast.story.line("")
    cast.story.say("The lab is left standing (--keep). Look around:")
    for each in (
        f"hopline service show --instance {name}",
        f"hopline backend drain web {SERVERS['rs1']} --instance {name}",
        f"nsenter --net=/run/netns/{PREFIX}client curl http://{VIP}/",
        f"nsenter --net=/run/netns/{PREFIX}switch tcpdump -i lb-rs1-eth1 -enn proto 4 or host {VIP}",
        f"hopline decap show --instance {name}-rs1",
    ):
        cast.story.line(f"   # {each}")
    cast.story.say("and remove it with: hopline lab down")


def _cast(story: Story, directory: Path) -> Cast:
    play = Stand(story, MACS)
    record, name = directory / labs.PROCESSES, labs.instance_name(TOPOLOGY.name)
    servers = {}
    for host, address in SERVERS.items():
        service = Service(play.namespace(host), f"{name}-{host}", directory / host)
        servers[host] = RealServer(story, host, play.namespace(host), address, service, record)
    node = Node(play, "node", Service(play.namespace("node"), name, directory), NODE)
    return Cast(play, node, servers, Downloads(story, "client", play.namespace("client"), directory / "client", record))


def tell(out: TextIO | None, keep: bool) -> int:
    """Build the network and tell every step; whoever calls removes what it made."""
    instances = tuple(f"{labs.instance_name(TOPOLOGY.name)}-{host}" for host in SERVERS)
    directory = labs.claim(TOPOLOGY.name, TOPOLOGY.namespace_names(), instances)
    build(TOPOLOGY)
    cast = _cast(Story(out), directory)
    # what a client has not read stays with the server, so that a server that dies is missed
    sysctl(cast.play.namespace("client"), **{"net.ipv4.tcp_rmem": "4096 16384 32768"})
    cast.story.line("hopline lab balance", "bold")
    cast.story.line(PICTURE)
    kept = False
    try:
        for step in STEPS:
            step(cast)
        code = cast.story.conclude()
        kept = keep
    finally:
        if not kept:
            cast.end()
    if keep:
        look_around(cast)
    return code


def run(keep: bool = False, out: TextIO | None = None) -> int:
    """Tell the whole story on `out` (stdout); 0 if every step showed what it should, else 1.

    With `keep` the lab is left standing. Raises HoplineError when the story cannot be told at all; nothing is left
    behind then, nor after any other exception.
    """
    return labs.told(TOPOLOGY.name, TOOLS, lambda: tell(out, keep), keep)
