"""Each step's record in words: what was looked up, what was found, and why.

RENDERERS has a function for each note that has words; another's is shown as it is (see `notes`).
"""

from collections.abc import Callable, Iterator

from hopline.config import NextHop
from hopline.daemon.explain.balanced import balance_steps, decap_steps
from hopline.daemon.explain.notes import PARSED, notes_of, read_note, said
from hopline.daemon.explain.scene import Scene
from hopline.daemon.explain.words import FIB_WORDS, REFUSAL_WORDS, neighbour_words, octets, verdict_words
from hopline.explain import Step
from hopline.features.dissect import defects, ethertype_name, icmp_name, protocol_name, tcp_flags
from hopline.features.forward import word_mac
from hopline.kernel.netlink.lookup import MatchedRoute

Steps = Iterator[tuple[str, str]]  # (name, what it says)

FIB_SUCCESS, FIB_NOT_FORWARDED, FIB_FORWARDING_OFF, FIB_NO_NEIGHBOUR, FIB_TOO_BIG = 0, 4, 5, 7, 8


def steps_of(scene: Scene) -> list[Step]:
    """Return one step for each thing that was looked up or decided, the verdict last."""
    found = [*_came_in(scene)]
    for name, kind in notes_of(scene.layout).items():
        note = scene.event[name]
        render = RENDERERS.get(name)
        if render is not None:
            found += render(scene)
        elif any(note.tobytes()):
            found.append((name, said(name, read_note(scene.layout, kind, note))))
    found.append(("verdict", verdict_words(scene.verdict)))
    return [Step(name, text) for name, text in found]


def _came_in(scene: Scene) -> Steps:
    ingress = scene.ingress
    why = f": {ingress.chosen}" if ingress.chosen else ""
    yield "in", f"came in by {ingress.name} ({ingress.mode} xdp){why}"


# parse


def _parsed(scene: Scene) -> Steps:
    packet = scene.packet
    if scene.verdict == "PASS_MALFORMED":
        wrong = defects(scene.frame) or ["its header does not add up"]
        yield "parse", f"{octets(len(scene.frame))}: {wrong[0]}"
        return
    tags = [int(tci) & 0xFFF for tci in packet["tag"][: int(packet["tags"])]]
    tagged = "".join(f"VLAN {tag}, " for tag in tags)
    if not scene.family:
        yield "parse", f"{tagged}{ethertype_name(int(packet['ethertype']))}, {octets(len(scene.frame))}"
        return
    yield "parse", f"{tagged}{_flow(scene)}, TTL {packet['ttl']}, {octets(int(packet['l3_length']))}{_parts(scene)}"


def _flow(scene: Scene) -> str:
    packet, flags = scene.packet, scene.enum("packet_flag")
    protocol, held = int(packet["protocol"]), int(packet["flags"])
    source, destination, more = scene.source, scene.destination, ""
    if held & flags.PACKET_PORTS:
        quoted = "{}:{}" if scene.family == 4 else "[{}]:{}"
        source, destination = (
            quoted.format(address, int(packet[f"{end}_port"]))
            for address, end in ((source, "source"), (destination, "destination"))
        )
        if protocol == 6 and len(scene.frame) > (at := int(packet["l4_offset"]) + 13):
            more = f", flags {tcp_flags(scene.frame[at])}"
    elif held & flags.PACKET_ICMP:
        more = f", {icmp_name(protocol, int(packet['icmp_type']), int(packet['icmp_code']))}"
    return f"IPv{scene.family} {protocol_name(protocol)} {source} > {destination}{more}"


def _parts(scene: Scene) -> str:
    flags, held = scene.enum("packet_flag"), int(scene.packet["flags"])
    words = {
        flags.PACKET_LATER_FRAGMENT: "a later fragment, so without ports",
        flags.PACKET_FRAGMENT: "the first fragment",
        flags.PACKET_OPTIONS: "IPv4 options",
        flags.PACKET_HOP_BY_HOP: "a hop-by-hop header",
        flags.PACKET_L4_TRUNCATED: "too short for its L4 header",
    }
    if held & flags.PACKET_LATER_FRAGMENT:
        held &= ~flags.PACKET_FRAGMENT
    return "".join(f", {text}" for bit, text in words.items() if held & bit)


# forward


def _forward(scene: Scene) -> Steps:
    if scene.claimed or scene.verdict in ("PASS_MALFORMED", "PASS_VLAN", "PASS_NOT_IP"):
        return
    yield from _addressed(scene)
    yield from _cache(scene)
    yield from _entry(scene)
    yield from _learning(scene)
    if scene.asked("FIB"):
        yield from _fib(scene)
    yield from _next_hop(scene)
    yield from _length(scene)
    yield from _egress(scene)


def _addressed(scene: Scene) -> Steps:
    to, own, name = scene.frame[:6].hex(":"), word_mac(int(scene.note["mac"])), scene.ingress.name
    if scene.verdict == "PASS_OTHER_HOST":
        yield "frame", f"addressed to {to}, and {name} is {own}: somebody else's, or on its way out of a capture"
    elif scene.frame[0] & 1:
        yield "frame", f"addressed to the group {to}"
    else:
        yield "frame", f"addressed to {name}'s own MAC {to}"
    if scene.verdict == "PASS_MARTIAN":
        yield "address", martian(scene)
    elif scene.verdict == "PASS_MULTICAST" and not scene.frame[0] & 1:
        yield "address", f"its destination {scene.destination} is multicast or broadcast"
    elif scene.verdict == "PASS_OPTIONS":
        yield "options", "it has options that a router must look at"


def martian(scene: Scene) -> str:
    """Return which address makes a packet one that no router forwards."""
    for whose, address in (("destination", scene.destination), ("source", scene.source)):
        what = _range(address)
        if what is not None:
            return f"its {whose} {address} is {what}, which no router forwards"
    return f"its source {scene.source} is an address of this host"


def _range(address: str) -> str | None:
    from ipaddress import ip_address

    parsed = ip_address(address)
    if parsed.version == 4 and parsed.packed[0] == 0:
        return "of this network (0.0.0.0/8)"
    if parsed.is_unspecified:
        return "unspecified"
    if parsed.is_loopback:
        return "loopback"
    if parsed.is_multicast or address == "255.255.255.255":
        return "multicast or broadcast"
    return "link-local" if parsed.version == 6 and parsed.is_link_local else None


def _cache(scene: Scene) -> Steps:
    note = scene.note
    if not int(note["lookups"]):
        yield "cache", "cache not asked: decided before any look-up"
    elif not scene.asked("CACHE"):
        yield "cache", "cache not asked: the lease has run out, so nobody vouches for it"
    elif not scene.hit:
        yield "cache", f"not in the cache, generation {note['generation']}"
    else:
        ids, id = scene.enum("adjacency_id"), int(note["adjacency"])
        what = f": {_kept(scene, ids(id).name if id in list(ids) else '')}"
        yield "cache", f"found in the cache, generation {note['generation']}{what}"


def _kept(scene: Scene, name: str) -> str:
    if name == "ADJACENCY_ID_LOCAL":
        return "this host itself"
    if scene.asked("FIB") or (scene.verdict == "PASS_NOT_LEARNING" and not scene.adjacency):
        return "no operator entry covers it"
    return f"next hop {scene.adjacency}, {'learned' if scene.learned else 'of an operator entry'}"


def _entry(scene: Scene) -> Steps:
    if scene.verdict == "PASS_LOCAL":
        yield "entry", f"{scene.destination} is one of this host's own addresses"
        return
    entry = scene.entry
    if entry is not None:
        kind = "prefix" if "/" in entry[0] else "exact"
        yield "entry", f"operator entry {entry[0]} ({kind}): {_hop_words(entry[1])}"
    elif scene.asked("PREFIX") and not scene.adjacency:
        yield "entry", f"no operator entry covers {scene.destination}"


def _hop_words(hop: NextHop) -> str:
    parts = [("via", hop.via), ("dev", hop.dev), ("src-mac", hop.src_mac), ("dst-mac", hop.dst_mac)]
    return " ".join(f"{name} {value}" for name, value in parts if value is not None)


def _learning(scene: Scene) -> Steps:
    bypassed = scene.learned and int(scene.note["flags"]) & scene.enum("interface_flag").INTERFACE_BYPASS_POLICY
    if scene.verdict != "PASS_NOT_LEARNING" and not bypassed:
        return
    reasons = scene.host.forbids(scene.ingress.index, scene.family)
    if bypassed:
        for reason in reasons:
            yield "learning", f"learned though the kernel's own path has more, by bypass_policy: {reason}"
        return
    for reason in reasons or ["it was a moment ago, and no reason is left"]:
        yield "learning", f"learning off: {reason}"


def _fib(scene: Scene) -> Steps:
    note, code = scene.note, int(scene.note["fib"])
    asked, gateway = scene.address(note["fib_asked"]), scene.address(note["fib_gateway"], int(note["fib_family"]))
    text = FIB_WORDS.get(code, f"the FIB answered {code}")
    if code == FIB_SUCCESS:
        text = f"{text}: {gateway} on {scene.device(int(note['fib_ifindex']))}, MTU {note['fib_mtu']}"
    elif code == FIB_NO_NEIGHBOUR:
        text = f"no neighbour for {gateway} on {scene.device(int(note['fib_ifindex']))}: the kernel will ask"
    elif code == FIB_TOO_BIG:
        own = f"its {octets(int(scene.packet['l3_length']))} are more than the route's MTU"
        text = f"{own} of {note['fib_mtu']}" if note["fib_mtu"] else own
    elif code == FIB_FORWARDING_OFF:
        text = f"the FIB does not forward it: forwarding is off on {scene.ingress.name}"
    if asked != scene.destination:
        text = f"the FIB is asked for next hop {asked}: {text}"
    yield "fib", text
    route = scene.host.route(asked, scene.source, scene.ingress.index)
    what = "the kernel's answer to `ip route get`" if isinstance(route, str) else "by the route"
    yield "route", f"{what}{':' if isinstance(route, str) else ''} {route_words(route, scene)}"


def route_words(route: MatchedRoute | str, scene: Scene) -> str:
    """Return the kernel's own route, as `ip route` would write it."""
    if isinstance(route, str):
        return route
    answer = route.answer
    kind = "" if answer.type == "unicast" else f"{answer.type} "
    parts = [("via", answer.gateway), ("dev", scene.device(answer.index) if answer.index else None)]
    parts += [("mtu", str(answer.mtu) if answer.mtu else None)]
    parts += [("table", route.table if route.table != "main" else None)]
    tunnel = " with a lightweight tunnel" if route.tunnel else ""
    return f"{kind}{route.to} " + " ".join(f"{name} {value}" for name, value in parts if value) + tunnel


def _next_hop(scene: Scene) -> Steps:
    note = scene.note
    if not scene.adjacency and not (scene.asked("FIB") and int(note["destination"])):
        return
    device = scene.device(int(note["ifindex"])) if int(note["ifindex"]) else "no device"
    state = scene.enum("adjacency_state")(int(note["state"])).name
    if scene.adjacency and state == "ADJACENCY_UNRESOLVED":
        where = f" for {scene.via}" if scene.via else ""
        yield "adjacency", f"next hop {scene.adjacency}: no neighbour{where} on {device}"
        return
    if scene.adjacency and state != "ADJACENCY_READY":
        why = state.removeprefix("ADJACENCY_").lower().replace("_", " ")
        yield "adjacency", f"next hop {scene.adjacency}: {why}, so it is not used"
        return
    source, destination = word_mac(int(note["source"])), word_mac(int(note["destination"]))
    number = f"next hop {scene.adjacency}" if scene.adjacency else "a next hop to learn"
    yield "adjacency", f"{number}: {device} {source} > {destination}, {_fresh(scene, destination)}"


def _fresh(scene: Scene, mac: str) -> str:
    """Return how well the MAC address is known."""
    if scene.via is None:
        return "entered by MAC"
    neighbour = scene.host.neighbour(int(scene.note["ifindex"]), scene.via)
    if neighbour is None:
        return f"{scene.via} is no neighbour of the kernel's now"
    now = neighbour.entry.mac.hex(":") if neighbour.entry.mac else None
    moved = f" at {now} now" if now not in (mac, None) else ""
    return f"{scene.via} is {neighbour_words(neighbour.entry, neighbour.unconfirmed_s)}{moved}"


def _length(scene: Scene) -> Steps:
    mtu, length = int(scene.note["destination"]) >> 48, int(scene.packet["l3_length"])
    if scene.verdict == "PASS_TTL":
        yield "ttl", f"TTL {scene.packet['ttl']}: no hop is left"
    elif scene.verdict == "PASS_TOO_BIG" and mtu:
        yield "mtu", f"its {octets(length)} are more than the next hop's MTU of {mtu}"
    elif scene.verdict == "FORWARDED":
        yield "mtu", f"its {octets(length)} fit the MTU of {mtu}"


def _egress(scene: Scene) -> Steps:
    refusal = scene.enum("refusal")(int(scene.note["refusal"])).name
    if refusal == "REFUSAL_NONE":
        return
    index = int(scene.note["fib_ifindex" if refusal == "REFUSAL_NO_SLOT" else "ifindex"])
    text = REFUSAL_WORDS.get(refusal, refusal.lower().replace("_", " ")).format(mode=scene.ingress.mode)
    yield "egress", f"{scene.device(index)} {text}"


RENDERERS: dict[str, Callable[[Scene], Steps]] = {
    PARSED: _parsed,
    "decap": decap_steps,
    "balance": balance_steps,
    "forward": _forward,
}
