"""The pipeline by TEST_RUN, on frames that nobody would send: valid ones of every kind, changed.

Of each frame three things are asked: that what the program did is what the model says (tests/model), that it is
right by rules that know no model (`check_rules`), and that the program that explains says the same and points at
octets that are there. What was counted is compared after each batch: one verdict a frame, with its octets.
"""

import random
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from bpf import test_forward, test_parse
from bpf.pipeline import FAR_MAC, IN_MAC, NEAR_MAC, OUT_MAC, XDP_PASS, XDP_REDIRECT
from hopline.kernel.runs import run_each
from lab.mutate import OPTIONS4, World, frames
from model.model import Answer, answer
from model.routers import Shipped, open_shipped
from model.table import Address, Hop, Route, Table, address, devices, mac, prefix

BATCH = 250
LARGEST = 9014


def hop(number: int, **more) -> Hop:
    """A next hop of its own MACs."""
    return Hop(bytes((2, 0, 0, 0, 14, number)), bytes((2, 0, 0, 0, 15, number)), **more)


TABLE = Table(
    exact={
        address("198.51.100.7"): hop(1),
        address("198.51.100.5"): hop(2, mtu=576),
        address("198.51.100.201"): hop(3, state="UNRESOLVED"),
        address("198.51.100.202"): hop(4, state="NO_DEVICE"),
        address("198.51.100.203"): hop(5, state="RETIRING"),
        address("2001:db8:f::7"): hop(6),
        address("2001:db8:f::5"): hop(7, mtu=1280),
        address("2001:db8:f::c9"): hop(8, state="UNRESOLVED"),
    },
    prefixes={
        prefix("198.51.100.64/26"): hop(9),
        prefix("198.51.100.0/24"): hop(10),
        prefix("198.51.0.0/16"): hop(11, mtu=65535),
        prefix("2001:db8:f::/64"): hop(12),
        prefix("2001:db8:f::/48"): hop(13),
        prefix("2001:db8:f::a/127"): hop(14),
        prefix("198.51.99.128/25"): hop(15, via=address("10.0.2.2")),
        prefix("224.0.0.0/4"): hop(16),
        prefix("ff00::/8"): hop(17),
    },
    routes={
        prefix("203.0.113.0/25"): Route(via=address("10.0.2.2")),
        prefix("203.0.113.128/25"): Route(via=address("10.0.2.2"), mtu=1000),
        prefix("192.0.2.0/30"): Route("unreachable"),
        prefix("2001:db8:a::/64"): Route(via=address("2001:db8:2::2")),
        prefix("2001:db8:b::/64"): Route(via=address("2001:db8:2::2"), mtu=1400),
        prefix("100.64.0.0/10"): Route(device="in0", via=address("10.0.1.2")),
    },
)
WORLDS = {
    "all is well": TABLE,
    "no lease": replace(TABLE, leased=False),
    "nothing is learned": replace(TABLE, learn=frozenset()),
    "policy is bypassed": replace(TABLE, bypass=True, forwarding=frozenset({4}), devices=devices(frags=False)),
    "headers may be split": replace(TABLE, whole_frames=False, devices=devices(able=False)),
}
ADDRESSES: dict[int, list[bytes]] = {4: [], 6: []}
for each in [*TABLE.exact, *TABLE.prefixes, *TABLE.routes]:
    packed = Address(each.family, each.number).packed
    ADDRESSES[each.family] += [packed, packed[:-1] + bytes((packed[-1] ^ 1,))]
for text in ("10.0.2.1", "10.0.1.1", "10.0.2.2", "10.0.2.9", "10.0.1.2", "127.0.0.1", "0.0.0.0", "255.255.255.255",
             "2001:db8:2::1", "2001:db8:2::2", "fe80::1", "::1", "::", "ff02::1", "::ffff:10.0.2.2"):  # fmt: skip
    ADDRESSES[address(text).family].append(address(text).packed)
MACS = [mac(text) for text in (IN_MAC, NEAR_MAC, FAR_MAC, OUT_MAC, "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01")]
ETHERTYPES = (b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x88\xa8", b"\x08\x06", b"\x00\x2e")


def seeds() -> list[bytes]:
    """Every case of the packet tables, and random packets of which most are right."""
    cases = [case.packet for case in (*test_forward.CASES, *test_parse.CASES)]
    world = World(
        mac(IN_MAC), mac(NEAR_MAC),
        ["10.0.1.2", "10.0.1.77"], ["198.51.100.7", "198.51.100.70", "203.0.113.9", "198.51.7.7", "10.0.2.2"],
        ["2001:db8:1::2", "2001:db8:1::77"], ["2001:db8:f::7", "2001:db8:f::b", "2001:db8:a::9", "2001:db8:f:7::7"],
    )  # fmt: skip
    return [frame for frame in [*cases, *frames(world, 1, 500)] if 14 <= len(frame) <= LARGEST]


def mutated(dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A seed with some of it changed; most IPv4 headers get the checksum that is right for them."""
    frame = bytearray(dice.choice(seeds))
    if dice.random() < 0.7:
        frame[:6] = MACS[0]
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 6))):
        _change(dice, frame)
    if len(frame) >= 34 and frame[12:14] == b"\x08\x00" and dice.random() < 0.9:
        frame[24:26] = bytes(2)
        frame[24:26] = (~ones_sum(frame[14:34]) & 0xFFFF).to_bytes(2, "big")
    return bytes(frame[:LARGEST]).ljust(14, b"\0")


def _change(dice: random.Random, frame: bytearray) -> None:
    version4 = frame[12:14] == b"\x08\x00"
    start, end = (30, 34) if version4 else (38, 54)
    at = min(dice.randrange(14, 74), len(frame) - 1)
    match dice.randrange(16):
        case 0 | 1 | 2:
            frame[start:end] = dice.choice(ADDRESSES[4 if version4 else 6])
        case 3:
            frame[start - len(range(start, end)) : start] = dice.choice(ADDRESSES[4 if version4 else 6])
        case 4:
            frame[22 if version4 else 21 : 23 if version4 else 22] = bytes((dice.choice((0, 1, 2, 3, 64, 255)),))
        case 5:
            length = len(frame) - (14 if version4 else 54) + dice.choice((0, 0, 0, 1, -1, -8, -20, 1 << 15, 100))
            frame[16 if version4 else 18 : 18 if version4 else 20] = (length & 0xFFFF).to_bytes(2, "big")
        case 6:
            frame[at] ^= 1 << dice.randrange(8)
        case 7:
            frame[at] = dice.randrange(256)
        case 8:
            del frame[dice.randrange(len(frame)) :]
            frame += bytes(max(14 - len(frame), 0))
        case 9:
            frame += dice.choice((b"\0", b"\0" * 18, b"\x55" * 46, bytes(1500), bytes(LARGEST)))
        case 10:
            frame[12:12] = dice.choice(ETHERTYPES[2:4]) + dice.randbytes(2)
        case 11:
            frame[12:14] = dice.choice(ETHERTYPES)
        case 12:
            frame[:6] = dice.choice(MACS)
        case 13 if version4:
            frame[34:34] = dice.choice(OPTIONS4)
            frame[14:15] = bytes((0x40 | dice.randrange(4, 16),))
        case 13:
            frame[20:21] = bytes((dice.choice((0, 6, 17, 43, 44, 51, 58, 59, 60, 135)),))
        case 14:
            extension = dice.choice((0, 6, 17, 43, 44, 51, 60)), dice.choice((0, 0, 1, 255))
            frame[54:54] = bytes(extension) + dice.randbytes(6)
        case _:
            frame[min(20 if version4 else 14, len(frame) - 1)] ^= 1 << dice.randrange(8)


def ones_sum(octets: bytes) -> int:
    """The one's complement sum of RFC 1071, of an even number of octets: all ones over a header that is right."""
    return sum(struct.unpack(f"!{len(octets) // 2}H", octets)) % 0xFFFF or 0xFFFF * any(octets)


def check_rules(sent: bytes, action: int, left: bytes) -> None:
    """What must be so of any router, whatever is in its tables."""
    if action != XDP_REDIRECT:
        assert action == XDP_PASS, f"action {action}"
        assert left == sent, "a packet that is the kernel's was written to"
        return
    assert sent[:6] == MACS[0], "was not addressed to us"
    assert left[:6] != sent[:6], "goes back to us"
    assert not left[0] & 1, "goes to a group"
    assert left[12:14] == sent[12:14]
    if sent[12:14] == b"\x08\x00":
        assert sent[14] == 0x45
        assert ones_sum(sent[14:34]) == ones_sum(left[14:34]) == 0xFFFF, "a checksum is wrong"
        assert left[22] == sent[22] - 1 > 0, "TTL"
        length, same = int.from_bytes(sent[16:18], "big"), ((14, 22), (23, 24), (26, None))
    else:
        assert sent[12:14] == b"\x86\xdd"
        assert sent[14] >> 4 == 6
        assert left[21] == sent[21] - 1 > 0, "hop limit"
        length, same = 40 + int.from_bytes(sent[18:20], "big"), ((14, 21), (22, None))
    assert len(left) == 14 + length <= len(sent), "length"
    kept = sent[: 14 + length]
    assert all(left[slice(*part)] == kept[slice(*part)] for part in same), "what no router changes was changed"


def check_event(shipped: Shipped, sent: bytes, event) -> str:
    """What the program that explains points at is there; its verdict's name."""
    packet, flags = event["packet"], shipped.datapath.layout.enum("packet_flag")
    known, l4 = int(packet["flags"]), int(packet["l4_offset"])
    assert int(packet["length"]) == len(sent)
    if l4:
        assert int(packet["l3_offset"]) + 20 <= l4 <= len(sent) - 4
        assert l4 + 4 <= int(packet["l3_offset"]) + int(packet["l3_length"])
    if known & flags.PACKET_PORTS:
        assert (int(packet["source_port"]), int(packet["destination_port"])) == struct.unpack_from("!HH", sent, l4)
    if known & flags.PACKET_ICMP:
        assert (int(packet["icmp_type"]), int(packet["icmp_code"])) == (sent[l4], sent[l4 + 1])
    return shipped.datapath.verdicts(int(event["verdict"])).name


class Wrong(AssertionError):
    """The program did something else; the message has the frame."""


def run(shipped: Shipped, table: Table, batch: Sequence[bytes], cold: bool) -> Counter[str]:
    """Run a batch and check all of it; the verdicts, counted."""
    pipeline, datapath = shipped.pipeline, shipped.datapath
    answers = [answer(table, frame) for frame in batch]
    if cold:
        datapath.bump_generation()
    before = _counted(shipped)
    with pipeline.inside():
        if not table.leased:
            datapath.drop_lease()
        for sent, wanted in zip(batch, answers, strict=True):
            ran = pipeline.program.test_run(sent, ifindex=pipeline.in_index)
            check(sent, wanted, ran.retval, ran.data)
        lengths, dtype = [len(frame) for frame in batch], datapath.layout.struct("trace_event")
        events = run_each(
            pipeline.tracer, pipeline.ring, batch, lengths, ifindex=pipeline.in_index, dtype=dtype
        )  # fmt: skip
    expected = sum((counts(sent, wanted) for sent, wanted in zip(batch, answers, strict=True)), Counter())
    moved = _counted(shipped) - before
    if moved != expected:
        raise Wrong(f"counted {moved - expected}, not {expected - moved}: {_culprit(shipped, table, batch)}")
    for sent, wanted, event in zip(batch, answers, events, strict=True):
        try:
            said = check_event(shipped, sent, event)
        except AssertionError as error:
            raise Wrong(f"explained by what is not there ({error}): {sent.hex()}") from None
        if said != wanted.verdict:
            raise Wrong(f"explained as {said}, and was {wanted.verdict}: {sent.hex()}")
    return Counter(wanted.verdict for wanted in answers)


def counts(sent: bytes, wanted: Answer) -> Counter[str]:
    """What a frame moves of the counters, as `_counted` calls them."""
    return Counter({wanted.verdict: 1, f"{wanted.verdict} octets": len(sent)})


def _culprit(shipped: Shipped, table: Table, batch: Sequence[bytes]) -> str:
    """The first frame of a batch that counts, by itself, as something else than the model says."""
    with shipped.pipeline.inside():
        if not table.leased:
            shipped.datapath.drop_lease()
        for sent in batch:
            before = _counted(shipped)
            shipped.pipeline.quick(sent)
            if _counted(shipped) - before != counts(sent, answer(table, sent)):
                return sent.hex()
    return "none of the batch, by itself"


def check(sent: bytes, wanted: Answer, action: int, left: bytes) -> None:
    """One frame, by the rules and by the model."""
    try:
        check_rules(sent, action, left)
    except AssertionError as error:
        raise Wrong(f"{error}: {sent.hex()} became {left.hex()}") from None
    if (action == XDP_REDIRECT) != (wanted.verdict == "FORWARDED") or left != wanted.frame:
        raise Wrong(f"action {action} where the model says {wanted.verdict}: {sent.hex()} became {left.hex()}")


def _counted(shipped: Shipped) -> Counter[str]:
    """Frames and octets so far, by verdict, of the interface that they come in by."""
    datapath, pipeline = shipped.datapath, shipped.pipeline
    width = int(datapath.limits.VERDICT_SLOTS)
    rows = datapath.maps["verdict_count"].sums()[pipeline.in_slot * width : (pipeline.in_slot + 1) * width]
    names = {int(verdict): verdict.name for verdict in datapath.verdicts}
    found = Counter()
    for number in rows["packets"].nonzero()[0]:
        name = names.get(int(number), f"verdict {number}")
        found[name], found[f"{name} octets"] = int(rows[number]["packets"]), int(rows[number]["bytes"])
    return found


def fuzz(shipped: Shipped, count: int, seed: int) -> Counter[str]:
    """`count` frames, as many in each of WORLDS."""
    dice, kinds, seen = random.Random(seed), seeds(), Counter()
    for table in WORLDS.values():
        shipped.write(table)
        for start in range(0, count // len(WORLDS), BATCH):
            batch = [mutated(dice, kinds) for _ in range(min(BATCH, count // len(WORLDS) - start))]
            seen += run(shipped, table, batch, cold=dice.random() < 0.1)
    return seen


@pytest.fixture(scope="module")
def shipped(needs_bpf) -> Iterator[Shipped]:
    with open_shipped() as made:
        yield made


def test_mutations(shipped):
    seen = fuzz(shipped, 5000, seed=1)
    # most of the work would be for nothing if all were refused at the first look
    assert seen["FORWARDED"] > 500
    assert len(seen) >= 15, sorted(seen)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million(shipped):
    seen = fuzz(shipped, 1_000_000, seed=2)
    assert seen.total() == 1_000_000
    print(", ".join(f"{verdict} {count}" for verdict, count in seen.most_common()))
