"""What decap and balance noted, in words: the tunnel, the service, the slot, the backend and the way to it."""

from collections.abc import Iterator

from hopline.daemon.explain.scene import Scene
from hopline.daemon.explain.served import SeenBackend
from hopline.daemon.explain.words import neighbour_words, octets
from hopline.features.dissect import defects, protocol_name

Steps = Iterator[tuple[str, str]]  # (name, what it says)

ENCAPS = {1: "ipip", 2: "gue"}
ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
UDP_HEADER = 8
TCP, SYN_ALONE, SYN_OR_ACK = 6, 0x02, 0x12


# decap


def decap_steps(scene: Scene) -> Steps:
    """Say whose tunnel a packet came in, whether its source is accepted, and what is wrong inside."""
    note = scene.event["decap"]
    encap, family = ENCAPS.get(int(note["encapsulation"])), int(note["outer_family"])
    if encap is None:
        return
    source, local = (scene.address(note[f"outer_{end}"], family) for end in ("source", "destination"))
    tunnel = f"{encap} from {source} for {local}"
    if not int(note["accepted"]):
        accepted = ", ".join(decap.from_ for decap in scene.host.decaps(local, encap)) or "nobody, by now"
        yield "decap", f"{tunnel}: not accepted: {accepted} may"
        return
    decap = scene.host.decap(int(note["decap"]))
    yield "decap", f"{tunnel}: accepted" + (f", from {decap.from_}" if decap is not None else "")
    if scene.verdict == "DROP_MALFORMED":
        yield "inner", inner_defect(scene)
    elif scene.verdict == "DECAPSULATED":
        yield "inner", f"IPv{int(note['inner_family'])}, {octets(int(note['overhead']))} of outer header are taken off"


def inner_defect(scene: Scene) -> str:
    """Return what is wrong with the packet inside a tunnel's."""
    inner = scene.frame[14 + int(scene.event["decap"]["overhead"]) :]
    version = inner[0] >> 4 if inner else 0
    if version not in ETHERTYPES:
        return f"{octets(len(inner))} that begin like no IP packet"
    wrong = defects(scene.frame[:12] + ETHERTYPES[version] + inner)
    return wrong[0] if wrong else "it is longer than the outer header says, or of another family"


# balance


def balance_steps(scene: Scene) -> Steps:
    """Say which service a packet is for, what its slot and the flow table said, and the way to its backend."""
    note = scene.event["balance"]
    row = int(note["service"])
    if not int(note["vip"]):
        return
    if not row:
        yield "service", _no_service(scene)
        return
    service = scene.host.service(row)
    told = f"{service.name}: {service.says}, {service.encap}, affinity {service.affinity}" if service else "just gone"
    yield "service", told
    if int(note["quoted"]):
        yield "quoted", "the ICMP error quotes a packet of this service, and goes to the backend of that flow"
    if scene.verdict == "DROP_FRAGMENT":
        yield "fragment", "the service needs ports, which not all fragments have, and the VIP is this host's"
        return
    if int(scene.packet["ttl"]) <= 1:
        yield "ttl", f"TTL {scene.packet['ttl']}: no hop is left"
        return
    if not int(note["choice"]):
        yield "ring", "it has no backend"
        return
    yield from _slot(scene, service.ring if service else None)
    yield from _flow(scene)
    yield from _backend(scene)


def _no_service(scene: Scene) -> str:
    vip = f"{scene.destination} is a VIP"
    if scene.verdict == "ANSWERED_ECHO":
        return f"{vip}, which answers an echo request"
    if scene.verdict == "DROP_FRAGMENT":
        return f"{vip} and this host's, and has services that need ports, which not all fragments have"
    flags, held, what = (
        scene.enum("packet_flag"),
        int(scene.packet["flags"]),
        protocol_name(int(scene.packet["protocol"])),
    )
    if held & flags.PACKET_PORTS:
        what += f" port {int(scene.packet['destination_port'])}"
    return f"{vip} without a service for {what}"


def _slot(scene: Scene, slots: int | None) -> Steps:
    note = scene.event["balance"]
    state = scene.enum("slot_state")(int(note["state"])).name.removeprefix("SLOT_").lower()
    now, before = (_name(scene, int(note[which])) for which in ("now", "before"))
    text = f"slot {note['slot']}" + (f" of {slots}" if slots else "") + f", {state}: now {now}"
    yield "slot", text + (f", before {before}" if state == "open" else "")


def _flow(scene: Scene) -> Steps:
    note = scene.event["balance"]
    answer = scene.enum("flow_answer")(int(note["flow"])).name.removeprefix("FLOW_")
    choice = scene.enum("slot_choice")(int(note["choice"])).name.removeprefix("CHOICE_").lower()
    found = {
        "HIT": "the flow table knows this flow",
        "IGNORED": "the flow table knows this flow, by a backend that is dead, or drains and this is a SYN",
        "MISS": "the flow table does not know this flow",
    }.get(answer)
    if found is None:
        return
    why = {"now": "it goes by `now`", "before": "it goes by `before`", "table": "it stays where it is"}[choice]
    if choice == "now" and answer == "MISS" and _is_syn(scene):
        why = "a SYN goes by `now`"
    elif choice == "before" and answer == "MISS" and not _is_syn(scene):
        why = "what is no SYN goes by `before`"
    elif choice == "before" and answer == "MISS":
        why = "it has no room for it either, so it goes by `before`"
    kept = ", and is remembered" if int(note["remembers"]) else ""
    yield "flow", f"{found}: {why}{kept}"


def _is_syn(scene: Scene) -> bool:
    at = int(scene.packet["l4_offset"]) + 13
    return int(scene.packet["protocol"]) == TCP and len(scene.frame) > at and scene.frame[at] & SYN_OR_ACK == SYN_ALONE


def _seen(scene: Scene, number: int) -> SeenBackend | None:
    return scene.host.backend(int(scene.event["balance"]["service"]), number)


def _name(scene: Scene, number: int) -> str:
    seen = _seen(scene, number)
    if seen is None:
        return f"number {number}, which is just gone"
    return seen.address or "nobody"


def _backend(scene: Scene) -> Steps:
    note = scene.event["balance"]
    seen = _seen(scene, int(note["number"]))
    if seen is not None and not seen.address:
        yield "backend", "nobody: no backend may take new flows"
        return
    if seen is not None:
        why = f": {seen.reason}" if seen.reason else ""
        yield "backend", f"{seen.address} weight {seen.weight}, {seen.state}{why}"
    if not int(note["outer_family"]):
        return
    family = int(note["outer_family"])
    source, destination = (scene.address(note[f"outer_{end}"], family) for end in ("source", "destination"))
    gue = int(note["overhead"]) % 20 == UDP_HEADER
    yield (
        "outer",
        f"IPv{family}{' and UDP (GUE)' if gue else ''} {source} > {destination}, {octets(int(note['overhead']))}",
    )
    yield "adjacency", _way(scene, seen)
    if scene.enum("adjacency_state")(int(note["adjacency_state"])).name == "ADJACENCY_READY":
        yield from _length(scene)


def _way(scene: Scene, seen: SeenBackend | None) -> str:
    note = scene.event["balance"]
    state = scene.enum("adjacency_state")(int(note["adjacency_state"])).name
    device = scene.device(int(note["ifindex"])) if int(note["ifindex"]) else "no device"
    via = seen.via if seen is not None else None
    if not int(note["adjacency"]):
        return "nothing leads to it"
    number = f"next hop {int(note['adjacency'])}"
    if state == "ADJACENCY_UNRESOLVED":
        return f"{number}: no neighbour{f' for {via}' if via else ''} on {device}"
    if state != "ADJACENCY_READY":
        return f"{number}: {state.removeprefix('ADJACENCY_').lower().replace('_', ' ')}, so it is not used"
    macs = scene.left[6:12].hex(":"), scene.left[:6].hex(":")
    way = f"{number}: {device}" + (f" {macs[0]} > {macs[1]}" if scene.verdict == "BALANCED" else "")
    if via is None:
        return f"{way}, entered by MAC"
    neighbour = scene.host.neighbour(int(note["ifindex"]), via)
    if neighbour is None:
        return f"{way}, {via} is no neighbour of the kernel's now"
    return f"{way}, {via} is {neighbour_words(neighbour.entry, neighbour.unconfirmed_s)}"


def _length(scene: Scene) -> Steps:
    note, length = scene.event["balance"], int(scene.packet["l3_length"])
    sizes = f"its {octets(length)} and {int(note['overhead'])} of outer header"
    if scene.verdict in ("ANSWERED_ERROR", "DROP_TOO_BIG"):
        room = int(note["mtu"]) - int(note["overhead"])
        yield "mtu", f"{sizes} are more than the next hop's MTU of {note['mtu']}: {room} would fit"
    elif scene.verdict == "BALANCED":
        yield "mtu", f"{sizes} fit the MTU of {note['mtu']}"
    else:
        yield "egress", f"{scene.device(int(note['ifindex']))} takes no redirect in {scene.ingress.mode} mode"
