"""The model of balance by itself, beside examples that others worked out and cases that are plain to see."""

import dataclasses
import struct

import pytest

from bpf.pipeline import IN_MAC, NEAR_MAC
from model.balance import answer_balanced, hash_of, mixed
from model.decap import joined_ecn
from model.model import internet_checksum
from model.services import TCP, UDP, Backend, Decap, Entry, Service, Services, Slot, Vip
from model.table import Hop, Table, address, devices, mac, prefix

CLIENT, VIP = address("203.0.113.1"), address("192.0.2.80")
HOP = Hop(mac("02:00:00:00:0e:01"), mac("02:00:00:00:02:01"))
ONE, TWO = (Backend(address("192.0.2.10"), address(f"10.0.2.{n}"), HOP) for n in (11, 12))
SYN, ACK, FIN, RST = 0x02, 0x10, 0x11, 0x04


def packet(
    protocol: int, body: bytes, to=VIP, source=CLIENT, ttl: int = 64, fragment: int = 0x4000, tos: int = 0
) -> bytes:
    start = struct.pack("!BBHHHBB", 0x45, tos, 20 + len(body), 7, fragment, ttl, protocol)
    ends = source.packed + to.packed
    return start + internet_checksum(start + bytes(2) + ends).to_bytes(2, "big") + ends + body


def segment(flags: int = ACK, port: int = 80, size: int = 6) -> bytes:
    return struct.pack("!HHIIBBHI", 40000, port, 1, 1, 0x50, flags, 1024, 0) + bytes(size)


def frame(packet: bytes) -> bytes:
    kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    return mac(IN_MAC) + mac(NEAR_MAC) + kind + packet


FRAME = frame(packet(TCP, segment()))


def web(*ring: Slot, **more: object) -> Services:
    fields = {"backends": (ONE, TWO), "ring": ring or (Slot(0),), **more}
    service = Service(VIP, frozenset({TCP}), 80, 80, **fields)
    return Services((service,), {VIP: Vip()})


def sent(services: Services, *frames: bytes, table: Table | None = None) -> tuple[list[str], dict]:
    """Where each went, by the last octet of its outer destination, or its verdict; and what is remembered."""
    memory: dict = {}
    answers = [answer_balanced(table or Table(), services, memory, each) for each in frames]
    return [str(each.frame[33]) if each.verdict == "BALANCED" else each.verdict for each in answers], memory


def test_the_mix_is_murmurhashs():
    """fmix64 of MurmurHash3: 0 stays 0, and of 1 it is this number."""
    assert mixed(0) == 0
    assert mixed(1) == 0xB456BCFC34C2CB2C


def test_the_hash_depends_on_all_that_names_a_flow():
    service = web().services[0]
    base = hash_of(service, CLIENT, 40000, 80)
    others = [
        hash_of(service, address("203.0.113.2"), 40000, 80),
        hash_of(service, CLIENT, 40001, 80),
        hash_of(service, CLIENT, 40000, 81),
        hash_of(dataclasses.replace(service, seed=1), CLIENT, 40000, 80),
    ]
    assert len({base, *others}) == 5


def test_a_segment_leaves_in_an_outer_header():
    """The lines of a capture that others made: the node to the real server, the client to the VIP inside."""
    left = answer_balanced(Table(), web(), {}, FRAME + b"padding")
    inner = packet(TCP, segment(), ttl=63)
    start = bytes.fromhex("4500 0042 0000 4000 4004")
    ends = bytes([192, 0, 2, 10, 10, 0, 2, 11])
    check = internet_checksum(start + bytes(2) + ends).to_bytes(2, "big")
    assert left.verdict == "BALANCED"
    assert left.frame == HOP.mac + HOP.source + b"\x08\x00" + start + check + ends + inner


def test_what_a_slots_state_says():
    syn, ack = frame(packet(TCP, segment(SYN))), FRAME
    assert sent(web(Slot(0, 1, "CLOSED")), syn, ack) == (["11", "11"], {})
    # remembered by the first segment, whichever it is
    assert sent(web(Slot(0, 1, "OPEN")), syn, ack)[0] == ["11", "11"]
    assert sent(web(Slot(0, 1, "OPEN")), ack, syn)[0] == ["12", "12"]
    assert sent(web(Slot(0, 1, "RESIDUAL")), ack, syn) == (["11", "11"], {})


def test_what_is_remembered():
    def entries(*flags):
        return list(sent(web(Slot(0, 1, "OPEN")), *(frame(packet(TCP, segment(each))) for each in flags))[1].values())

    assert entries(SYN) == [Entry(0)]
    assert entries(SYN, ACK) == [Entry(0, established=True)]
    assert entries(ACK, FIN) == [Entry(1, established=True, finished=True)]
    assert entries(FIN, SYN) == [Entry(1)]
    assert entries(RST) == []


def test_a_backend_that_drains_keeps_its_flows_and_takes_no_connection():
    draining = dataclasses.replace(ONE, draining=True)
    services = web(Slot(1, 0, "OPEN"), backends=(draining, TWO))
    ack, syn = FRAME, frame(packet(TCP, segment(SYN)))
    assert sent(services, ack, ack, syn, ack)[0] == ["11", "11", "12", "12"]


def test_a_backend_that_is_dead_is_not_remembered():
    services = web(Slot(1, 0, "OPEN"), backends=(dataclasses.replace(ONE, dead=True), TWO))
    assert sent(services, FRAME)[1] == {}


@pytest.mark.parametrize(
    ("packet", "wanted"),
    [
        (packet(TCP, segment(port=81)), "PASS_NO_LEASE"),
        (packet(UDP, struct.pack("!HHHH", 40000, 80, 8, 0)), "PASS_NO_LEASE"),
        (packet(TCP, segment()[:19]), "PASS_NO_LEASE"),
        (packet(TCP, segment(), fragment=0x2000), "PASS_NO_LEASE"),
        (packet(TCP, segment(), ttl=1), "ANSWERED_ERROR"),
        (packet(TCP, segment(size=1440)), "11"),
        (packet(TCP, segment(size=1441)), "ANSWERED_ERROR"),
        (packet(TCP, segment(size=1441), fragment=0), "DROP_TOO_BIG"),
        (packet(1, b"\x08\x00\xf7\xff" + bytes(4)), "ANSWERED_ECHO"),
        (packet(1, b"\x08\x01\xf7\xfe" + bytes(4)), "PASS_NO_LEASE"),
    ],
)
def test_a_packet_and_what_becomes_of_it(packet, wanted):
    assert sent(web(), frame(packet), table=Table(leased=False))[0] == [wanted]


def test_fragments_of_a_service_on_a_local_address_are_dropped_and_those_of_all_ports_are_balanced():
    first, later = (frame(packet(TCP, segment(), fragment=each)) for each in (0x2000, 0x0003))
    local = dataclasses.replace(web(), vips={VIP: Vip(local=True)})
    assert sent(local, first, later)[0] == ["DROP_FRAGMENT"] * 2
    every = dataclasses.replace(web().services[0], first=0, last=65535)
    assert sent(dataclasses.replace(local, services=(every,)), first, later)[0] == ["11", "11"]


def test_an_error_follows_the_flow_that_it_quotes():
    sent_by_backend = packet(TCP, struct.pack("!HHI", 80, 40000, 9), CLIENT, VIP)
    error = frame(packet(1, b"\x03\x04\0\0\0\0\x05\x78" + sent_by_backend, source=address("198.51.100.9")))
    services = web(Slot(0, 1, "OPEN"))
    # not known: `before`, and it stays unknown; then as the flow is known
    assert sent(services, error)[1] == {}
    assert sent(services, error, frame(packet(TCP, segment(SYN))), error)[0] == ["12", "11", "11"]


def test_no_backend():
    assert sent(web(backends=(dataclasses.replace(ONE, hop=dataclasses.replace(HOP, state="UNRESOLVED")),)), FRAME)[
        0
    ] == ["DROP_NO_BACKEND"]
    assert sent(dataclasses.replace(web(), services=(dataclasses.replace(web().services[0], ring=()),)), FRAME)[0] == [
        "DROP_NO_BACKEND"
    ]
    assert sent(web(), FRAME, table=Table(devices=devices(able=False)))[0] == ["DROP_NO_BACKEND"]


def test_decap_takes_the_outer_header_off_for_those_who_may():
    local, node = address("10.0.1.1"), address("192.0.2.10")
    inner = packet(TCP, segment())
    services = Services(
        decaps=frozenset({Decap(local, prefix("192.0.2.10")), Decap(local, prefix("192.0.2.10"), True)})
    )

    def verdict(outer: bytes, known: Services = services) -> str:
        return answer_balanced(Table(leased=False), known, {}, frame(outer)).verdict

    taken = answer_balanced(Table(), services, {}, frame(packet(4, inner, local, node)))
    assert (taken.verdict, taken.frame) == ("DECAPSULATED", frame(inner))
    assert verdict(packet(4, inner, local, CLIENT)) == "DROP_NOT_ACCEPTED"
    assert verdict(packet(4, inner[:19], local, node)) == "DROP_MALFORMED"
    assert verdict(packet(4, inner, VIP, node)) == "PASS_NO_LEASE"
    gue = struct.pack("!HHHH", 50000, 6080, 8 + len(inner), 0) + inner
    assert verdict(packet(UDP, gue, local, node)) == "PASS_LOCAL"
    with_port = dataclasses.replace(services, gue_ports=frozenset({6080}))
    assert verdict(packet(UDP, gue, local, node), with_port) == "DECAPSULATED"


@pytest.mark.parametrize(
    ("outer", "inner", "wanted"),
    [(0, 0, 0), (3, 0, 0), (3, 1, 3), (3, 2, 3), (1, 2, 1), (2, 1, 1), (1, 1, 1), (0, 2, 2), (1, 3, 3)],
)
def test_congestion_on_the_tunnels_way_is_told(outer, inner, wanted):
    """RFC 6040, figure 4, but for the packet that would be dropped there."""
    joined = joined_ecn(packet(4, b"", tos=outer), packet(TCP, segment(), tos=inner | 0xB8))
    assert joined == packet(TCP, segment(), tos=wanted | 0xB8)
