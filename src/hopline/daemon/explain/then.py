"""What the kernel does next with a packet that is passed, as far as its tables say; and what a run cannot see."""

from collections.abc import Callable

from hopline.daemon.explain.scene import Scene
from hopline.daemon.explain.steps import FIB_TOO_BIG, martian, route_words
from hopline.daemon.explain.words import octets
from hopline.features.dissect import defects, dissect, ethertype_name, protocol_name


def then_of(scene: Scene) -> list[str]:
    """Return what the kernel does with it, one sentence each; [] of a packet that XDP forwards."""
    say = _THEN.get(scene.verdict)
    return [] if say is None else say(scene)


def _not_ip(scene: Scene) -> list[str]:
    number = int(scene.packet["ethertype"])
    if number == 0x0806:
        return ["the kernel's ARP answers it if it asks for an address of this host, and learns the sender's MAC"]
    return [f"who listens for {ethertype_name(number)} on {scene.ingress.name} gets it, else it is dropped in silence"]


def _malformed(scene: Scene) -> list[str]:
    wrong = (defects(scene.frame) or [""])[0]
    version = "Ip6" if scene.frame[12:14] == b"\x86\xdd" else "Ip"
    counter = f"{version}InHdrErrors"
    if "checksum" in wrong:
        counter = "IpExtInCsumErrors"
    elif "the frame holds" in wrong:
        counter = "IpExtInTruncatedPkts" if version == "Ip" else "Ip6InTruncatedPkts"
    return [f"the kernel drops it and counts it ({counter} of `nstat -az`)"]


def _vlan(scene: Scene) -> list[str]:
    tag = int(scene.packet["tag"][0]) & 0xFFF
    if not tag:
        return [f"tag 0 is a priority alone: the kernel takes it off and handles the packet as {scene.ingress.name}'s"]
    return [f"the VLAN device of {scene.ingress.name} for tag {tag} gets it if there is one, else it is dropped"]


def _other_host(scene: Scene) -> list[str]:
    link = scene.host.link(scene.ingress.index)
    if link is not None and link.master:
        return [f"{scene.ingress.name} is a port of {scene.device(link.master)}, which gets it"]
    return ["the kernel drops it: it is for another host"]


def _multicast(scene: Scene) -> list[str]:
    return ["sockets and protocols that joined the group get it; a multicast routing daemon may forward it"]


def _martian(scene: Scene) -> list[str]:
    why = martian(scene)
    if "link-local" in why:
        return ["it is delivered if it is for an address of this host on that link, and never forwarded"]
    return [f"the kernel drops it as a martian ({why}); net.ipv4.conf.*.log_martians logs such"
            if scene.family == 4 else f"the kernel drops it: {why}"]  # fmt: skip


def _local(scene: Scene) -> list[str]:
    flags = scene.enum("packet_flag")
    what = protocol_name(int(scene.packet["protocol"]))
    if int(scene.packet["flags"]) & flags.PACKET_PORTS:
        what += f" port {int(scene.packet['destination_port'])}"
    return [f"the kernel delivers it to this host ({what}), through netfilter's input chains"]


def _options(scene: Scene) -> list[str]:
    return ["the kernel looks at the options", *_forwards(scene)]


def _ttl(scene: Scene) -> list[str]:
    if _unknown_to_the_kernel(scene):
        return _forwards(scene)
    version = "ICMP" if scene.family == 4 else "ICMPv6"
    return [f"the kernel drops it and answers {version} time exceeded to {scene.source}"]


def _too_big(scene: Scene) -> list[str]:
    note = scene.note
    if scene.adjacency and not scene.learned:
        return _forwards(scene)
    mtu = int(note["fib_mtu"]) if int(note["fib"]) == FIB_TOO_BIG else int(note["destination"]) >> 48
    named = f", MTU {mtu}," if mtu else ""
    if scene.family == 6:
        return [f"the kernel drops it and answers ICMPv6 packet too big{named} to {scene.source}"]
    at = int(scene.packet["l3_offset"]) + 6
    if scene.frame[at] & 0x40:
        return [f"it has DF: the kernel drops it and answers ICMP fragmentation needed{named} to {scene.source}"]
    return [f"the kernel fragments it{f' to the MTU of {mtu}' if mtu else ''} and forwards it, through netfilter"]


def _no_neighbour(scene: Scene) -> list[str]:
    if scene.adjacency:
        return _forwards(scene)
    note, how = scene.note, "ARP" if int(scene.note["fib_family"]) == 4 else "neighbour discovery"
    gateway, device = (
        scene.address(note["fib_gateway"], int(note["fib_family"])),
        scene.device(int(note["fib_ifindex"])),
    )
    error = "ICMP host unreachable" if scene.family == 4 else "ICMPv6 address unreachable"
    return [
        f"the kernel asks for {gateway} on {device} by {how}, keeps the packet meanwhile, and forwards it when it is "
        f"told; else it answers {error} to {scene.source}"
    ]


def _no_route(scene: Scene) -> list[str]:
    code, version = int(scene.note["fib"]), "ICMP" if scene.family == 4 else "ICMPv6"
    if code == 1:
        return ["the kernel drops it in silence"]
    if code in (2, 3):
        what = "host unreachable" if code == 2 else "administratively prohibited"
        return [f"the kernel drops it and answers {version} {what} to {scene.source}"]
    route = scene.host.route(scene.destination, scene.source, scene.ingress.index)
    if not isinstance(route, str) and route.answer.type in ("local", "broadcast", "anycast", "multicast"):
        return [f"it is {route.answer.type} to the kernel, which delivers it to this host"]
    if not isinstance(route, str):
        return _forwards(scene)
    what = "network unreachable" if scene.family == 4 else "no route"
    return [f"the kernel drops it and answers {version} {what} to {scene.source}"]


def _forwarding_off(scene: Scene) -> list[str]:
    family = "ipv4" if scene.family == 4 else "ipv6"
    return [f"the kernel drops it: net.{family}.conf.{scene.ingress.name}.forwarding is 0"]


def _forwards(scene: Scene) -> list[str]:
    route = scene.host.route(scene.destination, scene.source, scene.ingress.index)
    if isinstance(route, str):
        return [f"the kernel has it now, and by its own tables does not forward it: {route}"]
    return [f"the kernel forwards it by its own tables, through netfilter: {route_words(route, scene)}"]


def _unknown_to_the_kernel(scene: Scene) -> bool:
    """Whether it is the operator's entry alone that leads anywhere: the kernel knows nothing of those."""
    operators = scene.adjacency and not scene.learned
    return bool(operators and isinstance(scene.host.route(scene.destination, scene.source, scene.ingress.index), str))


def _hairpin(scene: Scene) -> list[str]:
    back = f"the kernel forwards it back out of {scene.ingress.name}"
    return [f"{back} and may answer ICMP redirect to {scene.source}, which then sends straight to {scene.via}"]


def _decapsulated(scene: Scene) -> list[str]:
    inner = next((header for header in dissect(scene.left)[1:] if header.name in ("IPv4", "IPv6")), None)
    if inner is None:
        return []
    named = dict(inner.fields)
    route = scene.host.route(named["to"], named["from"], scene.ingress.index)
    what = f"the packet from {named['from']} to {named['to']}"
    if isinstance(route, str):
        return [f"the kernel gets {what}, and by its own tables does not take it: {route}"]
    if route.answer.type == "local":
        return [f"the kernel delivers {what} to this host, through netfilter's input chains"]
    return [f"{named['to']} is no address of this host: the kernel forwards {what}: {route_words(route, scene)}"]


_THEN: dict[str, Callable[[Scene], list[str]]] = {
    "PASS_NOT_IP": _not_ip,
    "PASS_MALFORMED": _malformed,
    "PASS_VLAN": _vlan,
    "PASS_OTHER_HOST": _other_host,
    "PASS_MULTICAST": _multicast,
    "PASS_MARTIAN": _martian,
    "PASS_LOCAL": _local,
    "PASS_OPTIONS": _options,
    "PASS_TTL": _ttl,
    "PASS_TOO_BIG": _too_big,
    "PASS_NO_NEIGHBOUR": _no_neighbour,
    "PASS_NO_ROUTE": _no_route,
    "PASS_NOT_LEARNING": _forwards,
    "PASS_FORWARDING_OFF": _forwarding_off,
    "PASS_ENCAPSULATED_ROUTE": _forwards,
    "PASS_NO_EGRESS": _forwards,
    "PASS_HAIRPIN": _hairpin,
    "PASS_NO_LEASE": _forwards,
    "DECAPSULATED": _decapsulated,
}


def unseen_of(scene: Scene) -> list[str]:
    """Return what a run without traffic cannot know, a line each."""
    found = []
    if scene.sent:
        found.append("whether the device takes it: the redirect is not carried out")
    elif not scene.verdict.startswith("DROP") and scene.verdict not in (
        "PASS_MALFORMED",
        "PASS_OTHER_HOST",
        "PASS_MARTIAN",
    ):
        found.append("what netfilter, tc and xfrm make of it in the kernel")
    link = scene.host.link(scene.ingress.index)
    if link is not None and not link.kind and not int(scene.packet["tags"]):
        found.append(f"a VLAN tag that {scene.ingress.name}'s card takes off before the program")
    if scene.ingress.mode == "generic":
        found.append("packets of one flow that GRO merges before generic XDP")
    if scene.captured < len(scene.frame):
        missing = octets(len(scene.frame) - scene.captured)
        found.append(f"the last {missing}, which were not captured: zeros stand in their place")
    return found
