"""explain: what a person types and reads; what is typed wrong is one line that names the option."""

import json
from pathlib import Path

import pytest
from scapy.utils import wrpcap

from hopline.errors import Refused
from hopline.explain import BATCH_FRAMES, COUNTED_OCTETS

FRAME = bytes.fromhex("020000000101020000000102") + b"\x08\x00" + bytes(600)


@pytest.fixture
def file(tmp_path):
    wrpcap(str(tmp_path / "x.pcap"), [FRAME] * 3, linktype=1)
    return str(tmp_path / "x.pcap")


def test_a_packet_of_fields(run):
    fields = ["--src", "10.1.0.2", "--dst", "10.2.0.9", "--protocol", "tcp", "--sport", "1", "--dport", "2"]
    more = ["--flags", "SA", "--ttl", "3", "--size", "60", "--vlan", "7", "--in", "enp0s3"]
    code, out, err = run("explain", *fields, *more)
    assert (code, err) == (0, "")
    [asked] = run.service.questions
    assert asked.in_dev == "enp0s3"
    given = (
        asked.src,
        asked.dst,
        asked.protocol,
        asked.sport,
        asked.dport,
        asked.flags,
        asked.ttl,
        asked.size,
        asked.vlan,
    )
    assert given == ("10.1.0.2", "10.2.0.9", "tcp", 1, 2, "SA", 3, 60, 7)
    assert out == (
        "in       came in by enp0s3 (native xdp)\n"
        "verdict  FORWARDED: forwarded by XDP\n"
        "leaves   by enp0s9, 38 octets (4 octets behind the IP packet are cut off); "
        "what is changed is marked old → new\n"
        "           Ethernet  to 08:00:27:13:df:b6 → 08:00:27:f2:cb:f9, type IPv4\n"
        "unseen   whether the device takes it\n"
        "time     40 ns of program time\n"
    )


def test_a_frame(run):
    assert run("explain", "--in", "enp0s3", "--hex", FRAME.hex(":"))[0] == 0
    [asked] = run.service.questions
    assert (bytes.fromhex(asked.hex.replace(":", "")), asked.dst) == (FRAME, None)


def test_a_file(run, file):
    code, out, err = run("explain", "--in", "enp0s3", "--pcap", file)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"3 packets of {file} (pcap), as if they came in by enp0s3"
    assert lines[2].split() == ["VERDICT", "PACKETS", "SHARE", "BYTES", "FIRST"]
    assert lines[3].split() == ["FORWARDED", "3", "100.0%", "1842", "1"]
    assert lines[5] == "packet 1: FORWARDED, as 2 more"
    assert lines[6] == "    in       came in by enp0s3 (native xdp)"
    [batch] = run.service.batches
    assert [len(frame) for frame in batch.frames] == [COUNTED_OCTETS] * 3
    assert batch.lengths == [len(FRAME)] * 3
    assert run.service.questions[0].hex == FRAME.hex()


def test_the_first_k_and_json(run, file):
    found = json.loads(run("explain", "--in", "enp0s3", "--pcap", file, "-n", "2", "--json")[1])
    assert (found["packets"], found["in"], found["verdicts"][0]["share"]) == (2, "enp0s3", 1.0)
    assert found["verdicts"][0]["explanation"]["verdict"] == "FORWARDED"
    one = json.loads(run("explain", "--dst", "10.2.0.9", "--json")[1])
    assert (one["in"], one["out_dev"]) == ("enp0s3", "enp0s9")


def test_a_file_is_sent_in_pieces(run, tmp_path):
    wrpcap(str(tmp_path / "many.pcap"), [FRAME[:60]] * (BATCH_FRAMES + 1), linktype=1)
    code, out, _ = run("explain", "--pcap", str(tmp_path / "many.pcap"))
    assert code == 0
    assert out.startswith(f"{BATCH_FRAMES + 1} packets")
    assert all(len(batch.frames) <= BATCH_FRAMES for batch in run.service.batches)
    assert [batch.in_dev for batch in run.service.batches][1:] == ["enp0s3"] * (len(run.service.batches) - 1)


def test_the_daemon_is_named_before_or_after(run):
    for line in (
        ["--instance", "main", "explain", "--dst", "10.2.0.9"],
        ["explain", "--dst", "10.2.0.9", "--instance", "main"],
    ):
        assert run(*line)[0] == 0, line


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "no packet: give --dst ADDR, --hex BYTES or --pcap FILE"),
        ("--src 10.1.0.2", "no packet: give --dst ADDR"),
        ("--dst 10.2.0.9 --hex 00", "--dst and --hex cannot be together"),
        ("--hex 00 --pcap x", "--hex and --pcap cannot be together"),
        ("--ttl 3 --pcap x", "--ttl and --pcap cannot be together"),
        ("--dst 10.2.0.9 -n 3", "-n is how many packets of a file: give --pcap FILE too"),
        ("--dst nonsense", "--dst: nonsense is not an IP address: give an IPv4 or IPv6 address"),
        ("--dst fd00::1 --src 10.1.0.2", "--src: 10.1.0.2 is IPv4 and dst fd00::1 is IPv6: give an IPv6 address"),
        ("--dst 10.2.0.9 --protocol icmp --sport 80", "--sport: only TCP and UDP have ports, and protocol is icmp"),
        ("--dst 10.2.0.9 --protocol udp --flags S", "--flags: only TCP has flags, and protocol is udp"),
        ("--dst 10.2.0.9 --protocol foo", "--protocol: foo is not a protocol: give tcp, udp, icmp or a number"),
        (
            "--dst 10.2.0.9 --size 19",
            "--size: 19 octets are no size for an IPv4 packet of protocol udp: give 28 to 65535",
        ),
        ("--dst 10.2.0.9 --size 65536", "--size: 65536 octets are no size"),
        ("--dst 10.2.0.9 --size x", "'--size': 'x' is not a valid integer"),
        ("--dst 10.2.0.9 --ttl 256", "'--ttl': 256 is not in the range 0<=x<=255"),
        ("--dst 10.2.0.9 --vlan 4095", "'--vlan': 4095 is not in the range 0<=x<=4094"),
        ("--dst 10.2.0.9 --in a/b", "--in: a/b has a character that no device name has"),
        ("--hex xyz", "--hex: xyz is not hex: give pairs of hex digits"),
        ("--hex 010", "--hex: 010 is an odd number of hex digits"),
        ("--hex 0102", "--hex: 2 octets are no Ethernet frame: give 14 to 65557 octets"),
        ("--pcap x -n 0", "'-n': 0 is not in the range x>=1"),
    ],
)
def test_wrong_use_names_the_option_and_what_would_do(run, line, says):
    code, out, err = run("explain", *line.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert err.endswith("see `hopline explain --help`\n")
    assert run.service.questions == []


def test_what_is_no_capture_file_and_what_is_not_there(run, tmp_path):
    (tmp_path / "x").write_bytes(b"hello, world")
    for name, says in (("x", "neither pcap nor pcapng"), ("missing", "no such file"), (".", "is a directory")):
        code, out, err = run("explain", "--pcap", str(tmp_path / name))
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert says in err
        assert str(tmp_path / name) in err


def test_what_was_cut_short_is_told_before_the_table(run, file):
    Path(file).write_bytes(Path(file).read_bytes()[:-1])
    code, out, _ = run("explain", "--pcap", file)
    assert code == 0
    assert out.splitlines()[:2] == [
        f"2 packets of {file} (pcap), as if they came in by enp0s3",
        "the rest could not be read: the file ends in the middle of a packet",
    ]


def test_a_refusal_of_the_daemon_is_one_line(run):
    run.service.fault = Refused("no interface is attached: `hopline interface add DEV`")
    code, out, err = run("explain", "--dst", "10.2.0.9")
    assert (code, out, err) == (1, "", "hopline: no interface is attached: `hopline interface add DEV`\n")
