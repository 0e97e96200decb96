"""host/pcap.py: whatever a capture file holds, what is read of it is there, and the rest is said in one line."""

import os
import struct

import pytest

from fuzz.fuzzing import Target, search, vary
from hopline.errors import InvalidInput
from hopline.features.probe import LONGEST_FRAME, SHORTEST_FRAME
from hopline.host.pcap import CaptureFile
from host.test_pcap import block, enhanced, interface, pcap, section

FRAMES = [bytes([number]) * size for number, size in ((1, 60), (2, 14), (3, 301), (4, 61))]


def kinds(order: str) -> bytes:
    """A section with a packet block of each kind."""
    old = block(order, 2, struct.pack(order + "HHIIII", 0, 0, 0, 0, 60, 60) + FRAMES[0])
    simple = block(order, 3, struct.pack(order + "I", 61) + FRAMES[3])
    blocks = [enhanced(FRAMES[2], order), block(order, 0x0BAD, b"more"), simple, old, enhanced(FRAMES[1], order)]
    return section(order) + interface(order, snap=200) + b"".join(blocks)


def check(data: bytes) -> None:
    """The whole oracle."""
    descriptor = os.memfd_create("fuzzed")
    try:
        os.write(descriptor, data)
        read(f"/proc/self/fd/{descriptor}", data)
    finally:
        os.close(descriptor)


def read(path: str, data: bytes) -> None:
    refusal = None
    try:
        with CaptureFile(path) as source:
            found = list(source.packets())
    except InvalidInput as error:
        refusal = error
    if refusal is not None:
        assert str(refusal).isprintable(), refusal
        assert refusal.hint, refusal
        return
    assert [each.number for each in found] == sorted({each.number for each in found})
    assert len(found) + source.skipped <= len(data) // 12
    assert source.cut == sum(len(each.data) < each.length for each in found)
    assert source.incomplete is None or source.incomplete.isprintable()
    at = 0
    for each in found:
        # one behind the other, none twice
        at = data.index(each.data, at) + len(each.data)
        assert SHORTEST_FRAME <= len(each.data) <= each.length <= LONGEST_FRAME


TARGET = Target(
    check,
    [
        *(pcap(FRAMES, order, magic) for order in "<>" for magic in (0xA1B2C3D4, 0xA1B23C4D)),
        pcap(FRAMES, snap=40),
        *(kinds(order) for order in "<>"),
        kinds("<") + kinds(">"),
        pcap(FRAMES, link=113),
        b"\x1f\x8b\x08",
    ],
    [struct.pack(order + "I", number) for order in "<>" for number in (0, 1, 2, 3, 6, 12, 32, 0x0A0D0D0A, 0x1A2B3C4D)]
    + [section(), interface(), enhanced(FRAMES[1]), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 16],
    modules=("hopline.host.pcap",),
)


def test_mutations():
    vary(TARGET, 400)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search(tmp_path):
    search(TARGET, "fuzz.test_pcap", tmp_path, runs=300_000)
