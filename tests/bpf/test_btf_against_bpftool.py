"""Every struct, union and enum as we read it, against what bpftool reads in the same file."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import hopline
from bpf.fixtures import compiled
from hopline.errors import LayoutError
from hopline.kernel.btf import Btf, Kind
from hopline.kernel.record import Layout

SHIPPED = sorted((Path(hopline.__file__).parent / "bpf").glob("*.bpf.o"))


def paths():
    return [None, *SHIPPED]


@pytest.fixture(params=paths(), ids=lambda path: path.name if path else "fixture")
def path(request):
    return request.param or compiled("pipe")


@pytest.fixture
def dumped(path):
    if shutil.which("bpftool") is None:
        pytest.skip("bpftool is not installed")
    made = subprocess.run(["bpftool", "btf", "dump", "file", path, "--json"], capture_output=True, check=True)
    return {entry["id"]: entry for entry in json.loads(made.stdout)["types"]}


def test_every_type_is_read_alike(path, dumped):
    btf = Btf.from_elf(path)
    assert len(btf.types) == len(dumped) + 1
    for number, entry in dumped.items():
        ours = btf.types[number]
        assert ours.kind.name == entry["kind"]
        assert ours.name == entry["name"].replace("(anon)", "")
        if "size" in entry:
            assert ours.size == entry["size"]
        if entry["kind"] in ("STRUCT", "UNION"):
            theirs = [(m["name"].replace("(anon)", ""), m["type_id"], m["bits_offset"]) for m in entry["members"]]
            assert [(m.name, m.type_id, m.bit_offset) for m in ours.members] == theirs
        if entry["kind"] == "ENUM":
            assert list(ours.values) == [(v["name"], v["val"]) for v in entry["values"]]
        if entry["kind"] == "ARRAY":
            assert (ours.target, ours.count) == (entry["type_id"], entry["nr_elems"])


def size_of(dumped, number):
    """The size of a type, by bpftool's words alone."""
    entry = dumped[number]
    if entry["kind"] == "PTR":
        return 8
    if entry["kind"] == "ARRAY":
        return entry["nr_elems"] * size_of(dumped, entry["type_id"])
    return entry["size"] if "size" in entry else size_of(dumped, entry["type_id"])


def test_every_record_has_the_members_where_c_has_them(path, dumped):
    layout = Layout.from_elf(path)
    checked = 0
    for number, entry in dumped.items():
        if entry["kind"] not in ("STRUCT", "UNION"):
            continue
        if any(member.get("bitfield_size") for member in entry["members"]):
            with pytest.raises(LayoutError):
                layout.dtype(number)
            continue
        dtype = layout.dtype(number)
        assert dtype.itemsize == entry["size"]
        for member in entry["members"]:
            if member["name"] == "(anon)":
                continue
            field, offset = dtype.fields[member["name"]][:2]
            assert (offset * 8, field.itemsize) == (member["bits_offset"], size_of(dumped, member["type_id"]))
            checked += 1
    assert checked > 10


def test_every_enum_has_the_same_members(path, dumped):
    layout = Layout.from_elf(path)
    for entry in dumped.values():
        if entry["kind"] == "ENUM" and entry["name"] != "(anon)":
            members = layout.enum(entry["name"]).__members__
            assert {n: int(m) for n, m in members.items()} == {v["name"]: v["val"] for v in entry["values"]}


def test_the_running_kernel_is_read_as_well():
    vmlinux = Path("/sys/kernel/btf/vmlinux")
    if not vmlinux.exists():
        pytest.skip("this kernel has no BTF of its own")
    btf = Btf(vmlinux.read_bytes(), "vmlinux")
    sk_buff = btf.find(Kind.STRUCT, "sk_buff")
    assert sk_buff is not None
    assert any(member.bit_size for member in btf.types[sk_buff.id].members) or sk_buff.size > 200
