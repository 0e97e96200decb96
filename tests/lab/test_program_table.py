"""host/program/table.py on real maps: get, set, del and dump by the names of fields, and what is refused."""

import json
import os
import socket
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from clang import compile_bpf
from hopline.cli import main as cli
from hopline.errors import HoplineError, InvalidInput, KernelError, NotFound, Refused
from hopline.host.program.table import Table
from hopline.kernel import BpfObject, Map, netns
from hopline.kernel.program import SCHED_CLS, XDP
from host.program_types import compiled
from lab.loading import SOURCE
from lab.net import missing_tools
from lab.netlink_room import needs_root, room

pytestmark = needs_root


@pytest.fixture(scope="module")
def loaded():
    with BpfObject.open(compiled()) as found:
        found.load()
        yield found


@pytest.fixture
def ids(loaded):
    """Ids of the object's maps by name, as the command line takes them."""
    return {name: str(loaded.map(name).id) for name in loaded.maps()}


@pytest.fixture
def run(capsys):
    """A function that runs `hopline program map …`: exit code, stdout, stderr."""

    def run(*words):
        code = cli.main(["program", "map", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def dumped(map_id, as_json=True):
    with Table(map_id) as table:
        out = b"".join(table.dump(as_json))
    return json.loads(out) if as_json else out.decode().splitlines()


FLOW = ["from=10.0.0.1", "port=443", "inner.a=1", "inner.b=-2"]


def test_an_entry_is_set_read_changed_in_part_and_deleted(run, ids, loaded):
    flows = ids["hl_flows"]
    assert run("set", flows, *FLOW, "packets=5", "bytes=0x10") == (0, "", "")
    raw = loaded.map("hl_flows").get(b"\x0a\0\0\1\xbb\x01\0\0\x01\0\xfe\xff")
    assert raw.tobytes() == struct.pack("<QQ", 5, 16)
    assert run("get", flows, *FLOW) == (0, "packets=5 bytes=16\n", "")
    assert run("set", flows, *FLOW, "packets=6")[0] == 0
    code, out, _ = run("get", flows, *FLOW, "--json")
    key = {"from": "10.0.0.1", "port": 443, "pad": [0, 0], "inner": {"a": 1, "b": -2}}
    assert (code, json.loads(out)) == (0, {"key": key, "value": {"packets": 6, "bytes": 16}})
    line = "from=10.0.0.1 port=443 pad=0,0 inner.a=1 inner.b=-2  packets=6 bytes=16"
    assert run("dump", flows) == (0, line + "\n", "")
    assert run("set", flows, *line.replace("packets=6", "packets=7").split())[0] == 0
    assert json.loads(run("dump", flows, "--json")[1]) == [{"key": key, "value": {"packets": 7, "bytes": 16}}]
    assert json.loads(run("set", flows, "key", *FLOW, "value", "bytes=1", "--json")[1])["value"]["bytes"] == 1
    assert json.loads(run("del", flows, *FLOW, "--json")[1]) == {"key": key}
    assert run("dump", flows) == (0, "", "")
    assert run("dump", flows, "--json") == (0, "[]\n", "")
    for verb in ("get", "del"):
        code, out, err = run(verb, flows, *FLOW)
        assert (code, out) == (1, "")
        assert err.startswith(f"hopline: map hl_flows (id {flows}): no entry ")
        assert err.endswith(": `hopline program map dump` shows all\n")


def test_numbers_below_zero_are_words_and_no_options(run, ids):
    assert run("set", ids["hl_single"], "field=1", "-5")[0] == 0
    assert run("get", ids["hl_single"], "1") == (0, "-5\n", "")
    assert run("del", ids["hl_single"], "1")[0] == 0


@pytest.mark.parametrize(
    ("name", "key", "value", "shown"),
    [
        ("hl_macs", ["02:00:00:00:00:01"], ["10.1.2.3"], {"key": "02:00:00:00:00:01", "value": "10.1.2.3"}),
        ("hl_names", ["eth 0"], ["true"], {"key": "eth 0", "value": True}),
        ("hl_prefixes6", ["2001:db8::/32"], ["7"], {"key": "2001:db8::/32", "value": 7}),
    ],
)
def test_keys_that_are_one_word(ids, name, key, value, shown):
    with Table(ids[name]) as table:
        table.set([*key, *value])
        assert table.get(key).json() == shown
        assert dumped(ids[name]) == [shown]
        table.delete(key)
        assert dumped(ids[name]) == []


def test_a_trie_is_asked_for_the_longest_prefix_and_set_for_the_very_one(ids):
    with Table(ids["hl_prefixes"]) as table:
        table.set(["10.0.0.0/8", "packets=1", "bytes=2"])
        assert table.get(["10.1.2.3"]).json()["value"] == {"packets": 1, "bytes": 2}
        # another prefix: nothing of the shorter one around it gets into it
        table.set(["10.1.0.0/16", "packets=9"])
        assert table.get(["10.1.2.3"]).json()["value"] == {"packets": 9, "bytes": 0}
        table.set(["10.0.0.0/8", "packets=3"])
        table.set(["0.0.0.0/0", "bytes=4"])
        assert {row["key"]: row["value"] for row in dumped(ids["hl_prefixes"])} == {
            "10.0.0.0/8": {"packets": 3, "bytes": 2},
            "10.1.0.0/16": {"packets": 9, "bytes": 0},
            "0.0.0.0/0": {"packets": 0, "bytes": 4},
        }
        with pytest.raises(InvalidInput, match=r"key: 10.1.0.0/8 has host bits set: write 10.0.0.0/8"):
            table.set(["10.1.0.0/8", "packets=1"])
        for prefix in ("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0"):
            table.delete([prefix])


def test_per_cpu_values_are_set_on_all_and_each_keeps_its_other_fields(run, ids, loaded):
    cpus = loaded.map("hl_cpus")
    counts = np.zeros(cpus.ncpu, cpus.value_dtype)
    counts["packets"] = np.arange(cpus.ncpu) + 10
    cpus.set(1, counts)
    assert run("set", ids["hl_cpus"], "1", "weather=WARM", "sizes[1]=3")[0] == 0
    entry = json.loads(run("get", ids["hl_cpus"], "1", "--json")[1])
    each = [{"packets": 10 + cpu, "weather": "WARM", "sizes": [0, 3]} for cpu in range(cpus.ncpu)]
    total = {"packets": sum(one["packets"] for one in each), "sizes": [0, 3 * cpus.ncpu]}
    assert entry == {"key": 1, "values": each, "sum": total}
    lines = run("get", ids["hl_cpus"], "1")[1].splitlines()
    assert lines[0] == f"sum packets={total['packets']} sizes=0,{3 * cpus.ncpu}"
    assert lines[1] == "cpu 0 packets=10 weather=WARM sizes=0,3"
    assert len(lines) == cpus.ncpu + 1
    assert len(dumped(ids["hl_cpus"])) == 4
    assert f"1  {lines[1]}" in dumped(ids["hl_cpus"], as_json=False)
    assert run("set", ids["hl_cpu_hash"], "77", "5")[0] == 0
    assert dumped(ids["hl_cpu_hash"]) == [{"key": 77, "values": [5] * cpus.ncpu, "sum": 5 * cpus.ncpu}]


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("hl_numbers", ["100", "u8=1"], "key: 100 is out of range: give 0 to 99"),
        ("hl_numbers", ["1", "u8=256"], "value u8: 256 is out of range: give 0 to 255"),
        ("hl_numbers", ["1", "u9=1"], "value u9: no field u9: it has u8, s8, u16"),
        ("hl_numbers", ["1"], "value: none given: write field=value; its fields are u8, s8"),
        ("hl_flows", ["from=1.2.3.4", "packets=1"], "key: no port, inner.a, inner.b in it: give all fields of the key"),
        ("hl_devices", ["0", "no-such-dev"], "value: no device no-such-dev in this namespace: write the name of a"),
    ],
)
def test_what_does_not_fit_changes_nothing(run, ids, name, words, said):
    before = dumped(ids[name])
    code, out, err = run("set", ids[name], *words)
    assert (code, out) == (1, "")
    assert err.startswith(f"hopline: {said}")
    assert err.count("\n") == 1
    assert dumped(ids[name]) == before


def test_what_the_kernel_refuses_is_said_in_its_words(ids):
    with Table(ids["hl_flows"]) as table:
        full = [[f"from=10.0.1.{last}", "port=1", "inner.a=0", "inner.b=0"] for last in (1, 2)]
        for key in full:
            table.set([*key, "packets=1"])
        with pytest.raises(Refused, match=r"set an entry of map hl_flows .*: it is full: delete one of its 2"):
            table.set([*FLOW, "packets=1"])
        for key in full:
            table.delete(key)
    with Table(ids["hl_numbers"]) as table, pytest.raises(Refused, match="an array has all its entries always"):
        table.delete(["1"])


def test_what_is_read_only_is_frozen_and_its_variables_have_names(ids, loaded):
    (info,) = [one for one in map(Map.from_id, loaded.program("hl_types").info().map_ids) if "rodata" in one.name]
    with Table(str(info.id)) as table:
        assert table.get(["0"]).json()["value"] == {"start": {"packets": 0, "bytes": 0}, "limit": 3}
        with pytest.raises(Refused, match=r"it is frozen: load its program again with other values"):
            table.set(["0", "limit=4"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hl_events", "is of type ringbuf: what is in it is gone once it is read, which is for the program"),
        ("hl_queue", "is of type queue: its values have no keys, and taking one is for the program"),
    ],
)
def test_maps_without_entries_are_refused_by_their_type(run, ids, name, said):
    for words in (["dump"], ["get", "0"], ["set", "0", "1"], ["del", "0"]):
        code, out, err = run(words[0], ids[name], *words[1:])
        assert (code, out) == (1, "")
        assert said in err
        assert err.count("\n") == 1


def test_programs_and_maps_in_maps_are_ids(ids, loaded):
    with Table(ids["hl_calls"]) as table, loaded.program("hl_other") as program:
        table.set(["1", str(program.id)])
        assert table.get(["1"]).json() == {"key": 1, "value": program.id}
        assert dumped(ids["hl_calls"]) == [{"key": 1, "value": program.id}]
        table.set(["0", "hl_other"])
        for index in ("0", "1"):
            table.delete([index])
        with pytest.raises(NotFound, match="no entry 1: "):
            table.get(["1"])
        with pytest.raises(InvalidInput, match="value: 2 words given: name one program by its id, pin or name"):
            table.set(["0", "1", "2"])


def test_maps_in_maps_are_named_as_maps_are(ids):
    with Table(ids["hl_outer"]) as table:
        held = dumped(ids["hl_outer"])
        assert held == [{"key": "00 00 00 00", "value": int(ids["hl_inner"])}]
        table.set(["01000000", ids["hl_inner"]])
        assert table.get(["01", "00", "00", "00"]).text() == f"{ids['hl_inner']}\n"
        table.delete(["01000000"])
        assert dumped(ids["hl_outer"]) == held
        with pytest.raises(HoplineError, match="give a map of the type and sizes that it is for"):
            table.set(["01000000", ids["hl_numbers"]])


def test_a_prefix_is_asked_for_by_its_fields_too(run, ids):
    name = ids["hl_prefixes"]
    assert run("set", name, "prefixlen=16", "data=10.1.0.0", "packets=3") == (0, "", "")
    assert run("get", name, "data=10.1.0.0", "prefixlen=16") == (0, "packets=3 bytes=0\n", "")
    assert run("dump", name) == (0, "10.1.0.0/16  packets=3 bytes=0\n", "")
    assert run("del", name, "prefixlen=16", "data=10.1.0.0")[0] == 0


def test_a_trie_without_btf_takes_hex(run):
    with Map.create(11, "hl_trie", 8, 1, 8, 1) as trie:
        name, octets = str(trie.id), ["10", "00", "00", "00", "0a", "01", "00", "00"]
        assert run("set", name, *octets, "ff") == (0, "", "")
        assert run("get", name, "".join(octets)) == (0, "ff\n", "")
        assert run("dump", name) == (0, "10.1.0.0/16  ff\n", "")


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        (16, ["0", "99999"], r"errno 75\): give a queue of 0 to 16384 packets"),
        (16, ["absent", "8"], r"errno 19\): give a cpu that this host may have: see /sys/devices/system/cpu/possible"),
        (14, ["0", "4294967295"], r"errno 22\): give a device of the namespace that the map was made in"),
    ],
)
def test_what_a_type_of_map_takes_is_said(kind, words, said):
    absent = int(Path("/sys/devices/system/cpu/possible").read_text().rpartition("-")[2]) + 1
    words = [str(absent) if word == "absent" else word for word in words]
    with (
        Map.create(kind, "hl_kind", 4, 4, absent + 1) as made,
        Table(str(made.id)) as table,
        pytest.raises(KernelError, match=said),
    ):
        table.set(words)


def test_programs_that_a_map_does_not_take(ids):
    with BpfObject.open(compiled()) as other, Table(ids["hl_calls"]) as table:
        other.only("hl_other")
        other.set_type("hl_other", SCHED_CLS)
        other.load()
        with (
            other.program("hl_other") as program,
            pytest.raises(KernelError, match=r": give a program of the type, and"),
        ):
            table.set(["0", str(program.id)])
        with pytest.raises(NotFound, match="program 4294967295: there is no such id: `hopline program show` lists all"):
            table.set(["0", "4294967295"])


def test_a_long_name_of_a_program_is_compared_whole(ids, tmp_path):
    source = '__attribute__((section("xdp"))) int hl_called_by_a_long_name(void *ctx) { return 2; }'
    with BpfObject.open(compile_bpf(tmp_path, source)) as called, Table(ids["hl_calls"]) as table:
        called.load()
        table.set(["0", "hl_called_by_a_long_name"])
        table.delete(["0"])
        with pytest.raises(
            NotFound, match="program hl_called_by_a_slip: not loaded, but hl_called_by_a_long_name is: "
        ):
            table.set(["0", "hl_called_by_a_slip"])


def test_an_array_that_counts_by_action_is_asked_for_actions(run, tmp_path):
    with BpfObject.open(compile_bpf(tmp_path, SOURCE)) as counting:
        counting.only("counted")
        counting.set_type("counted", XDP)
        counting.load()
        with counting.map("verdicts") as verdicts, counting.map("unused") as unused:
            assert run("set", str(verdicts.id), "XDP_DROP", "packets=4") == (0, "", "")
            assert verdicts.sums()["packets"].tolist() == [0, 4 * verdicts.ncpu, 0, 0, 0]
            assert run("get", str(verdicts.id), "XDP_DROP") == run("get", str(verdicts.id), "1")
            err = run("get", str(verdicts.id), "XDP_ACCEPT")[2]
            assert err.endswith(
                "write a number from 0 to 4294967295, or one of XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT\n"
            )
            assert (
                run("get", str(unused.id), "XDP_DROP")[2]
                == "hopline: key: XDP_DROP is not a whole number: write a number from 0 to 4294967295\n"
            )


def test_elements_of_an_array_are_set_one_by_one(run, ids):
    assert run("set", ids["hl_lists"], "1", "1,2,65535")[0] == 0
    assert run("set", ids["hl_lists"], "1", "[1]=9", "[0]=3")[0] == 0
    assert run("get", ids["hl_lists"], "1") == (0, "3,9,65535\n", "")


def test_devices_go_by_their_names(loaded, ids):
    with room("ip link add veth_a type veth peer name veth_b") as name:
        netns.run_in(name, in_a_namespace)


def in_a_namespace():
    """Maps of devices know those of the namespace that they were made in."""
    index = socket.if_nametoindex("veth_a")
    with BpfObject.open(compiled()) as fresh:
        fresh.load()
        with Table(str(fresh.map("hl_devices").id)) as table:
            table.set(["2", "veth_a"])
            assert fresh.map("hl_devices").get(2).tobytes() == struct.pack("<I", index)
            assert table.get(["2"]).json() == {"key": 2, "value": "veth_a"}
            assert b"".join(table.dump(as_json=False)) == b"2  veth_a\n"
            table.set(["3", str(index)])
            assert table.get(["3"]).text() == "veth_a\n"
            with pytest.raises(HoplineError, match="give a device of the namespace that the map was made in"):
                table.set(["1", "4294967295"])
        with Table(str(fresh.map("hl_dev_hash").id)) as table:
            table.set(["7", "ifindex=veth_b"])
            assert table.get(["7"]).json() == {"key": 7, "value": {"ifindex": "veth_b", "program": 0}}
            with pytest.raises(HoplineError):
                table.set(["7", "program=4294967295"])


def test_maps_without_btf_are_hex(run):
    with Map.create(1, "hl_raw", 4, 6, 8) as raw:
        name = str(raw.id)
        assert run("set", name, "0a", "00", "00", "01", "02:00:00:00:00:01")[0] == 0
        assert run("set", name, "10.0.0.2", "0x0a1b2c3d4e5f")[0] == 0
        assert sorted(run("dump", name)[1].splitlines()) == [
            "0a 00 00 01  02 00 00 00 00 01",
            "0a 00 00 02  0a 1b 2c 3d 4e 5f",
        ]
        assert json.loads(run("get", name, "0a000002", "--json")[1]) == {
            "key": "0a 00 00 02",
            "value": "0a 1b 2c 3d 4e 5f",
        }
        code, _, err = run("get", name, "0a00")
        assert (code, err) == (1, "hopline: key: 0a00 is not what it holds: write 4 octets in hex, as 0a1b2c3d\n")


@pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")
def test_numbers_are_those_that_bpftool_reads(loaded, ids):
    numbers = loaded.map("hl_numbers")
    values = np.frombuffer(os.urandom(100 * numbers.value_size), numbers.value_dtype)
    numbers.update_batch(np.arange(100), values)
    told = subprocess.run(["bpftool", "-j", "map", "dump", "id", ids["hl_numbers"]], capture_output=True, check=True)
    theirs = [row["formatted"] for row in json.loads(told.stdout)]
    for row in theirs:  # it shows them in the host's order
        for name in ("be16", "be64"):
            size = int(name[2:])
            row["value"][name] = int.from_bytes(row["value"][name].to_bytes(size // 8, "little"), "big")
    assert dumped(ids["hl_numbers"]) == theirs


def test_a_dump_is_streamed(loaded):
    """Many entries: all of them come once, in parts, and a broken pipe ends it without a word."""
    with Map.create(1, "hl_many", 4, 4, 200_000) as many:
        keys = np.arange(150_000, dtype="u4")
        many.update_batch(keys, keys)
        with Table(str(many.id)) as table:
            parts = list(table.dump(as_json=True))
            assert len(parts) > 5
            found = {bytes.fromhex(row["key"]): bytes.fromhex(row["value"]) for row in json.loads(b"".join(parts))}
        assert len(found) == 150_000
        assert all(key == value for key, value in found.items())
        command = f"python -m hopline.cli.main program map dump {many.id} | head -1"
        done = subprocess.run(["bash", "-c", f"{os.path.dirname(os.sys.executable)}/{command}"], capture_output=True)
        assert (len(done.stdout.splitlines()), done.stderr) == (1, b"")
