"""What a lab's network looks like, and how it is built: namespaces, ports with addresses, Ethernet segments.

A description is data only (frozen, comparable, no I/O); `build` and `tear_down` carry it out with the `ip` and
`ethtool` binaries. A topology with a switch has one bridge per LAN in a namespace of its own; without one, every
LAN joins exactly two ports and is a plain veth pair.
"""

from dataclasses import dataclass

from hopline.errors import InvalidInput
from hopline.lab.shell import enter, ip_batch, namespaces, run

DEVICE_NAME_LIMIT = 15

# A namespace copies these from the host when it is made, so a lab that means a value must write it.
QUIET = {
    "rp_filter": 0,
    "send_redirects": 0,
    "accept_redirects": 0,
    "arp_ignore": 0,
    "arp_filter": 0,
}


@dataclass(frozen=True)
class Port:
    """One Ethernet device of a namespace, on a LAN; addresses are written with their prefix length."""

    device: str
    lan: str
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Namespace:
    """A machine of the lab. `routes` are arguments of `ip route add`; `forwards` is ip_forward, v4 and v6."""

    name: str
    ports: tuple[Port, ...]
    routes: tuple[str, ...] = ()
    forwards: bool = False

    def port(self, device: str) -> Port:
        """The port called `device`; KeyError if there is none."""
        for port in self.ports:
            if port.device == device:
                return port
        raise KeyError(device)


@dataclass(frozen=True)
class Topology:
    """Machines and the LANs between them; `switch` names the namespace of the bridges, None means plain cables."""

    name: str
    nodes: tuple[Namespace, ...]
    switch: str | None = None

    def node(self, name: str) -> Namespace:
        """The machine called `name`; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def namespace_names(self) -> tuple[str, ...]:
        """Every namespace that `build` makes, the switch first."""
        nodes = tuple(node.name for node in self.nodes)
        return (self.switch, *nodes) if self.switch else nodes

    def lans(self) -> dict[str, list[tuple[Namespace, Port]]]:
        """LAN name to the ports on it, in the order of the description."""
        members: dict[str, list[tuple[Namespace, Port]]] = {}
        for node in self.nodes:
            for port in node.ports:
                members.setdefault(port.lan, []).append((node, port))
        return members


def switch_device(node: Namespace, port: Port) -> str:
    """The switch's end of a port's cable: machine and device, as a label on a patch panel would say."""
    return f"{node.name.removeprefix('hl-')}-{port.device}"


def check(topology: Topology) -> None:
    """Raise InvalidInput where a description cannot be built: a name too long, or a cable without two ends."""
    for lan, members in topology.lans().items():
        if topology.switch is None and len(members) != 2:
            raise InvalidInput(lan, f"a LAN without a switch joins two ports, this one has {len(members)}")
        names = [port.device for _, port in members]
        if topology.switch:
            names += [switch_device(node, port) for node, port in members] + [lan]
        for name in names:
            if len(name) > DEVICE_NAME_LIMIT:
                raise InvalidInput(name, f"a device name has at most {DEVICE_NAME_LIMIT} characters")


def link_commands(topology: Topology) -> dict[str, list[str]]:
    """Namespace name to `ip -batch` lines that make its cables, with MAC addresses; nothing is up yet.

    A veth is made inside its machine, so device numbers there run from 2 in the order of the description.
    """
    commands: dict[str, list[str]] = {name: [] for name in topology.namespace_names()}
    for node in topology.nodes:
        for port in node.ports:
            near = f"link add {port.device} address {port.mac} type veth peer name"
            if topology.switch:
                commands[node.name].append(f"{near} {switch_device(node, port)} netns {topology.switch}")
                continue
            (first, _), (other, far) = topology.lans()[port.lan]
            if node == first:
                commands[node.name].append(f"{near} {far.device} address {far.mac} netns {other.name}")
    return commands


def address_commands(node: Namespace) -> list[str]:
    """`ip -batch` lines that give a machine its addresses, bring it up and set its routes, in that order."""
    lines = ["link set lo up"]
    for port in node.ports:
        # duplicate address detection would keep an IPv6 address unusable for a second
        lines += [f"address add {a} dev {port.device}{' nodad' if ':' in a else ''}" for a in port.addresses]
        lines.append(f"link set {port.device} up")
    return lines + [f"route add {route}" for route in node.routes]


def switch_commands(topology: Topology) -> list[str]:
    """`ip -batch` lines for the switch namespace: a bridge a LAN, the cables plugged in, all up."""
    lines = []
    for lan, members in topology.lans().items():
        lines += [f"link add {lan} type bridge stp_state 0 forward_delay 0 mcast_snooping 0", f"link set {lan} up"]
        for node, port in members:
            lines += [f"link set {switch_device(node, port)} master {lan}", f"link set {switch_device(node, port)} up"]
    return lines


def offload_commands(topology: Topology) -> dict[str, list[list[str]]]:
    """Namespace name to `ethtool` argument lists.

    Every end of every cable gets GRO: a veth whose peer has neither GRO nor XDP loses redirected frames silently.
    Every end that may send gets checksum offload off: XDP forwards a partial checksum as it is, and then TCP breaks
    while ping works.
    """
    commands: dict[str, list[list[str]]] = {name: [] for name in topology.namespace_names()}
    for node in topology.nodes:
        for port in node.ports:
            commands[node.name].append(["-K", port.device, "gro", "on", "tx", "off"])
            if topology.switch:
                commands[topology.switch].append(["-K", switch_device(node, port), "gro", "on", "tx", "off"])
    return commands


def sysctl_script(forwards: bool) -> str:
    """A shell script that sets a new namespace's own sysctls, before it has devices that would copy the host's."""
    # ip_forward first: writing it resets some of the others
    lines = [f"echo {int(forwards)} > /proc/sys/net/ipv4/ip_forward"]
    for scope in ("all", "default"):
        lines += [f"echo {value} > /proc/sys/net/ipv4/conf/{scope}/{key}" for key, value in QUIET.items()]
    lines.append("test -d /proc/sys/net/ipv6 || exit 0")
    lines.append(f"echo {int(forwards)} > /proc/sys/net/ipv6/conf/all/forwarding")
    return "\n".join(["set -e", *lines])


def build(topology: Topology) -> None:
    """Make the whole topology; raises HoplineError at the first step the kernel refuses, leaving what was made."""
    check(topology)
    forwards = {node.name: node.forwards for node in topology.nodes}
    ip_batch(None, [f"netns add {name}" for name in topology.namespace_names()])
    for name in topology.namespace_names():
        run(enter(name, ["sh", "-c", sysctl_script(forwards.get(name, False))]))
    for name, lines in link_commands(topology).items():
        ip_batch(name, lines)
    for name, arguments in offload_commands(topology).items():
        for each in arguments:
            run(enter(name, ["ethtool", *each]))
    if topology.switch:
        ip_batch(topology.switch, switch_commands(topology))
    # a route through a port needs the far end up as well, so addresses come when every cable is plugged in
    for node in topology.nodes:
        ip_batch(node.name, address_commands(node))


def tear_down(names: tuple[str, ...]) -> None:
    """Delete those of the named namespaces that exist; their devices go with them."""
    present = namespaces()
    ip_batch(None, [f"netns delete {name}" for name in names if name in present])
