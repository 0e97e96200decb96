"""Capture files of every kind that is taken, and what is said of those that are not, or not whole."""

import contextlib
import gzip
import struct
import subprocess

import pytest
from scapy.utils import PcapNgWriter, wrpcap

from hopline.errors import InvalidInput
from hopline.host.pcap import Captured, CaptureFile
from lab.net import missing_tools

FRAMES = [bytes([number]) * size for number, size in ((1, 60), (2, 14), (3, 1514), (4, 61))]


def pcap(frames, order="<", magic=0xA1B2C3D4, link=1, snap=1 << 18):
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, link)
    return head + b"".join(struct.pack(order + "IIII", 1, 2, len(f[:snap]), len(f)) + f[:snap] for f in frames)


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, 12 + len(body)) + body + struct.pack(order + "I", 12 + len(body))


def section(order="<"):
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order="<", link=1, snap=0):
    return block(order, 1, struct.pack(order + "HHI", link, 0, snap))


def enhanced(frame, order="<", number=0, length=None):
    return block(order, 6, struct.pack(order + "IIIII", number, 0, 0, len(frame), length or len(frame)) + frame)


def read(path, limit=None):
    with CaptureFile(path) as source:
        return list(source.packets(limit)), source


@pytest.fixture
def file(tmp_path):
    def write(data):
        (tmp_path / "x.pcap").write_bytes(data)
        return tmp_path / "x.pcap"

    return write


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D], ids=["us", "ns"])
def test_pcap_of_either_byte_order_and_clock(file, order, magic):
    packets, source = read(file(pcap(FRAMES, order, magic)))
    assert packets == [Captured(n, frame, len(frame)) for n, frame in enumerate(FRAMES, 1)]
    assert (source.format, source.cut, source.skipped, source.incomplete) == ("pcap", 0, 0, None)


@pytest.mark.parametrize("order", "<>")
def test_pcapng_with_all_kinds_of_packet_blocks(file, order):
    old = block(order, 2, struct.pack(order + "HHIIII", 0, 0, 0, 0, 60, 60) + FRAMES[0])
    simple = block(order, 3, struct.pack(order + "I", 61) + FRAMES[3])
    unknown = block(order, 0x0BAD, b"skipped")
    data = section(order) + interface(order) + unknown + enhanced(FRAMES[2], order) + simple + old
    # a second section may have the other byte order, and its own interfaces
    other = "<" if order == ">" else ">"
    data += section(other) + interface(other) + enhanced(FRAMES[1], other)
    packets, source = read(file(data))
    assert [one.data for one in packets] == [FRAMES[2], FRAMES[3], FRAMES[0], FRAMES[1]]
    assert [one.number for one in packets] == [1, 2, 3, 4]
    assert (source.format, source.incomplete) == ("pcapng", None)


def test_what_other_programs_write_is_read(tmp_path):
    wrpcap(str(tmp_path / "a.pcap"), FRAMES, linktype=1)
    with PcapNgWriter(str(tmp_path / "b.pcapng")) as writer:
        for frame in FRAMES:
            writer.linktype = 1
            writer.write(frame)
    for name in ("a.pcap", "b.pcapng"):
        packets, source = read(tmp_path / name)
        assert [one.data for one in packets] == FRAMES, name
        assert source.incomplete is None


@pytest.mark.skipif(bool(missing_tools("tcpdump")), reason="needs tcpdump")
def test_what_tcpdump_writes_is_read(tmp_path):
    wrpcap(str(tmp_path / "a.pcap"), FRAMES, linktype=1)
    for clock in ("micro", "nano"):
        command = ["tcpdump", "-r", "a.pcap", f"--{clock}", "-w", clock]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        assert [one.data for one in read(tmp_path / clock)[0]] == FRAMES


def test_frames_that_were_cut_say_how_long_they_were(file):
    packets, source = read(file(pcap(FRAMES, snap=60)))
    assert [(len(one.data), one.length, one.cut) for one in packets] == [
        (60, 60, False), (14, 14, False), (60, 1514, True), (60, 61, True)
    ]  # fmt: skip
    assert source.cut == 2
    simple = block("<", 3, struct.pack("<I", 1514) + FRAMES[2][:60])
    [one], source = read(file(section() + interface(snap=60) + simple))
    assert (one.data, one.length, source.cut) == (FRAMES[2][:60], 1514, 1)


def test_what_is_no_frame_is_skipped_and_still_counts_as_a_packet(file):
    frames = [FRAMES[0], b"short", bytes(65_558), FRAMES[1]]
    packets, source = read(file(pcap(frames)))
    assert [(one.number, one.data) for one in packets] == [(1, FRAMES[0]), (4, FRAMES[1])]
    assert source.skipped == 2


def test_the_first_k(file):
    path = file(pcap(FRAMES))
    assert [one.number for one in read(path, 2)[0]] == [1, 2]
    assert len(read(path, 9)[0]) == 4


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello, world", "neither pcap nor pcapng"),
        (gzip.compress(pcap(FRAMES), mtime=0), "gzipped"),
        (pcap([])[:20], "ends within its own header"),
        (section()[:7], "ends within its own header"),
        (pcap(FRAMES, link=101), "link type 101, not Ethernet"),
        (section() + interface(link=113) + enhanced(FRAMES[0]), "link type 113, not Ethernet"),
    ],
)
def test_what_is_no_capture_file_of_ethernet_frames_is_refused(file, data, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        read(file(data))
    assert caught.value.field == "pcap"
    assert "tcpdump" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "packets", "says"),
    [
        (pcap(FRAMES)[:-1], 3, "the file ends in the middle of a packet"),
        (pcap(FRAMES)[: 24 + 16 + 60 + 7], 1, "in the middle of a packet's header"),
        (pcap(FRAMES[:1]) + struct.pack("<IIII", 1, 2, 1 << 30, 60), 1, "damaged: a packet of 1073741824 octets"),
        (section() + interface() + enhanced(FRAMES[0]) + enhanced(FRAMES[1])[:-5], 1, "in the middle of a block"),
        (section() + enhanced(FRAMES[0]), 0, "an interface that it does not name"),
        (section() + block("<", 1, b"\1\0"), 0, "an interface block that is too short"),
        (section() + interface() + block("<", 6, bytes(12)), 0, "a packet block that is too short"),
        (section() + interface() + struct.pack("<II", 6, 9), 0, "a block of 9 octets"),
        (section() + interface() + struct.pack("<II", 6, 1 << 30), 0, "a block of"),
        (section() + b"\x0a\x0d\x0d\x0a" + bytes(8), 0, "a section without a byte order"),
    ],
)
def test_what_can_be_read_of_a_damaged_file_is_and_why_no_more(file, data, packets, says):
    found, source = read(file(data))
    assert len(found) == packets
    assert says in source.incomplete


def test_any_octets_are_read_or_refused(file):
    whole = [pcap(FRAMES), section() + interface() + b"".join(map(enhanced, FRAMES))]
    for data in whole:
        for length in range(0, len(data), 7):
            with contextlib.suppress(InvalidInput):
                packets, _ = read(file(data[:length]))
                assert packets == read(file(data))[0][: len(packets)]
