"""What the kernel has of services, read back: by a daemon that starts, and where the store is lost.

Everything that decides about packets is in the maps. What is for the daemon alone is not all there: health checks, ways
to backends that were given by hand, and whether an outer source was; where the store is lost that cannot be known.
"""

import logging
import time
from collections.abc import Mapping

import numpy as np
from msgspec import structs

from hopline.config import Backend, Service
from hopline.config.service import GUE_PORT
from hopline.daemon.balance.balancer import Balancer
from hopline.daemon.balance.served import NOBODY, Member, Served
from hopline.errors import HoplineError
from hopline.features import slots
from hopline.features.balance import GUE, TICKS_PER_S, port_text, ports_of, text_of
from hopline.features.forward import recovered_next_hop

log = logging.getLogger("hopline")

UNKNOWN = "their health checks are not known to the kernel: give them again"


def adopt(balancer: Balancer, wanted: Mapping[str, Service]) -> dict[str, Service]:
    """Take over the services that the maps hold, as a balancer that has none yet; return them as far as they are known.

    What is wanted says what the kernel does not know. What a change that was cut short left, and nothing leads to, is
    forgotten with the flow table's entries of it.
    """
    with balancer.lock:
        balancer.vips.adopt()
        for row in np.flatnonzero(balancer.maps.names["name"] != b"").tolist():
            if row:
                _adopt_row(balancer, row)
        served = list(balancer.by_name.values())
        for one in served:
            _name_ways(balancer, one, wanted.get(one.service.name))
        each = [*served, *balancer.ending]
        balancer.pool.rows.claim((one.row, 1) for one in each)
        balancer.pool.elements.claim((one.first, one.elements) for one in each)
        balancer.pool.backends.claim((one.base, one.room) for one in each)
        _adopt_hops(balancer, served)
        balancer.vips.drop_strays()
        return {one.service.name: one.service for one in served}


def _adopt_row(balancer: Balancer, row: int) -> None:
    maps = balancer.maps
    try:
        served = _read(balancer, row)
    except (HoplineError, ValueError, IndexError) as error:
        log.warning("service row %d: %s: it is forgotten", row, error)
        maps.set_name(row, "")
        maps.set_ring(row, 0, 0)
        return
    name, vip = served.service.name, served.service.vip
    if name in balancer.by_name or not _leads_to(balancer, vip, row):
        for member in served.members.values():
            member.hop = 0  # its adjacency is nobody's, unless another backend's
        balancer.ending.append(served)
        return
    balancer.by_name[name] = served
    served.vip = vip
    balancer.vips.adopt_link(row, vip, ports_of(served.service), served.service.icmp_echo == "answer")


def _leads_to(balancer: Balancer, vip: str, row: int) -> bool:
    held = balancer.vips.vips.get(vip)
    if held is None:
        return False
    rules = balancer.maps.vips["rules"][held.row]
    pages = [page for each in held.pages for page in (each.root, *each.leaves.values()) if page]
    return bool((rules >> np.uint64(32) == row).any() or (balancer.maps.pages[pages] == row).any())


def _read(balancer: Balancer, row: int) -> Served:
    """Return what the maps say of one service; ValueError where that makes no sense."""
    maps = balancer.maps
    words = maps.services[row]
    first, size = maps.ring(row)
    base, room = int(words["backends"]), int(words["numbers"])
    leading = maps.vips[int(words["vip"]) % len(maps.vips)]
    vip = text_of(int(leading["family"]) or 4, leading["address"].tobytes())
    if not size or base + room > len(maps.backends) or not room:
        raise ValueError("a change was cut short")
    if (first * int(maps.limits.RING_ELEMENT_SLOTS)) + size > len(maps.slots):
        raise ValueError("its ring is outside the rings")
    served = Served(maps, _recovered(balancer, row, vip, size), row, base, room, first)
    _read_backends(served)
    served.take_stock()
    return served


def _read_backends(served: Served) -> None:
    maps, flags = served.maps, served.maps.backend_flags
    shares = slots.shares(served.words)
    now = time.monotonic()
    backends: list[Backend] = []
    kept: set[str] = set()
    in_use, is_dead = int(flags.BACKEND_IN_USE), int(flags.BACKEND_DEAD)
    for number, row in enumerate(maps.backends[served.base : served.base + served.room].tolist()):
        destination, adjacency, held, family, weight, leaving = maps.kept_of(row)
        if not held & in_use:
            continue
        dead = bool(held & is_dead)
        if not family and dead and not weight:
            served.numbers.holders[NOBODY] = number
            continue
        address = text_of(family or 4, destination)
        if address in served.members or (dead and not adjacency):
            served.numbers.retired.add(number)  # its grace was over, or it returned under another number
            continue
        in_ring = bool(shares[number])
        # one that was out of the ring without a next hop stays out until it has one
        since = now if in_ring else 0.0
        member = Member(Backend(address, weight), adjacency, True, since, leaving, False if dead else None)
        served.members[address] = member
        served.numbers.holders[address] = number
        if dead:
            served.numbers.tainted.add(number)
        if not leaving:
            backends.append(member.backend)
        if in_ring and not dead:
            kept.add(address)
    served.kept = frozenset(kept)
    served.numbers.most = served.room
    served.service = structs.replace(served.service, backend=tuple(backends))


def _recovered(balancer: Balancer, row: int, vip: str, size: int) -> Service:
    maps = balancer.maps
    words, names = maps.services[row], maps.service_flags
    held = balancer.vips.vips.get(vip)
    flags = int(words["flags"])
    base, room = int(words["backends"]), int(words["numbers"])
    rows = maps.backends[base : base + room]
    rows = rows[rows["family"] != 0]
    gue = len(rows) and int(rows[0]["encapsulation"]) == GUE
    first, last = int(words["first_port"]), int(words["last_port"])
    any_port = (first, last) == (0, 65535)
    affinity = bool(flags & int(names.SERVICE_REMEMBERS)) and not (any_port and int(words["protocols"]) & 1)
    echo = held is not None and bool(int(maps.vips[held.row]["flags"]) & int(maps.vip_flags.VIP_ANSWERS_ECHO))
    varies = len(rows) and int(rows[0]["vary"])
    return Service(
        name=maps.name(row),
        vip=vip,
        port=port_text(first, last),
        protocol={1: "tcp", 2: "udp"}.get(int(words["protocols"]), "both"),  # type: ignore[arg-type]
        encap="gue" if gue else "ipip",
        gue_port=int(rows[0]["port"]) if gue else GUE_PORT,
        local=_prefix(rows[0]) if varies else None,
        ring=size,
        seed=int(words["seed"]),
        affinity="table" if affinity else "ring",
        idle=max(1, int(words["idle"]) // TICKS_PER_S),
        own="on-wire" if vip in balancer.vips.owned else "routed",
        icmp_echo="answer" if echo else "pass",
    )


def _prefix(row: np.void) -> str:
    """Return the prefix that an outer source varies in."""
    hosts = int.from_bytes(int(row["vary"]).to_bytes(4, "little"), "big").bit_length()
    family = int(row["family"])
    return f"{text_of(family, row['source'].tobytes())}/{(32 if family == 4 else 128) - hosts}"


def _name_ways(balancer: Balancer, served: Served, wanted: Service | None) -> None:
    """Say of backends how they are reached, as the intent has it, or as the kernel's adjacencies look."""
    if wanted is not None:
        given = {backend.address: backend for backend in wanted.backend}
        for address, member in served.members.items():
            member.backend = given.get(address, member.backend)
            if wanted.check == "none":
                member.healthy = None
            # it may have been waiting for its first check
            member.new = wanted.check != "none" and member.healthy is None and address not in served.kept
        return
    names = {link.index: link.name for link in balancer.links.values()}
    balancer.hops.known((member.backend for member in served.members.values()), balancer.links)
    for address, member in served.members.items():
        held = balancer.datapath.read_adjacency(member.hop) if member.hop else None
        hop = None if held is None else recovered_next_hop(held, names)
        plain = balancer.hops.hop_of(member.backend)
        if hop is None or (plain is not None and (plain.dev, plain.via) == (hop.dev, hop.via)):
            continue
        member.backend = Backend(address, member.backend.weight, hop.via, hop.dst_mac, hop.dev)
    backends = tuple(member.backend for member in served.members.values() if not member.leaving)
    local = served.service.local
    if backends and local is None:
        source = served.header(backends[0].address)
        used = text_of(source.family, source.source)
        if used != balancer.hops.source_for(backends[0], balancer.sources):
            local = used
    served.service = structs.replace(served.service, backend=backends, local=local)


def _adopt_hops(balancer: Balancer, served: list[Served]) -> None:
    """Keep the adjacencies of backends whose way is what it was; point the others at theirs."""
    members = [(one, address, member) for one in served for address, member in one.members.items()]
    balancer.hops.known((member.backend for _, _, member in members), balancer.links)
    # by hand or by a former route: what the row's adjacency holds says by which next hop
    balancer.hops.adopt((balancer.hops.hop_of(member.backend), member.hop) for _, _, member in members)
    for one, address, member in members:
        hop = balancer.hops.hops.hops.get(member.hop)
        if hop is None:
            member.hop = 0
            one.point(address, 0)
            continue
        balancer.hops.hops.entries[member.hop] += 1
        balancer.by_hop[member.hop].add(one.service.name)
        member.ready = balancer.hops.ready(member.hop)
    balancer.hops.drop_strays(time.monotonic())
