"""kernel/elf.py beside readelf, and files that are damaged or none."""

import re
import subprocess

import pytest

from clang import compile_bpf
from hopline.kernel import elf

SOURCE = """
int one __attribute__((section("maps"), used)) = 1;
int two __attribute__((section("maps"), used)) = 2;
int zeros[100];
__attribute__((section("xdp"), used)) int p(void *ctx) { return zeros[3]; }
char _license[] __attribute__((section("license"), used)) = "GPL";
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return compile_bpf(tmp_path_factory.mktemp("elf"), SOURCE).read_bytes()


def test_sections_are_those_that_readelf_sees(made, tmp_path):
    place = tmp_path / "made.o"
    place.write_bytes(made)
    seen = subprocess.run(["llvm-readelf", "-SW", str(place)], capture_output=True, text=True, check=True).stdout
    row = re.compile(r"\] (\S+)\s+([A-Z_0-9]+)\s+[0-9a-f]+ ([0-9a-f]+) ([0-9a-f]+) ")
    listed = {name: (kind, int(at, 16), int(size, 16)) for name, kind, at, size in row.findall(seen)}
    found = {name: one for name, one in elf.sections(made).items() if name}
    assert set(found) == set(listed)
    for name, (kind, at, size) in listed.items():
        assert found[name].size == size, name
        assert found[name].data == (b"" if kind == "NOBITS" else made[at : at + size]), name
    assert elf.machine(made) == elf.EM_BPF
    assert found["license"].data == b"GPL\0"
    assert (found[".bss"].size, found[".bss"].data) == (400, b"")


def test_symbols_of_a_section_and_where_they_lie(made):
    placed = {one.name: one.value for one in elf.symbols(made) if one.section == "maps"}
    assert sorted(placed) == ["one", "two"]
    section = elf.sections(made)["maps"].data
    assert [section[placed[name]] for name in ("one", "two")] == [1, 2]


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" + bytes(200), b"\x7fELF\x01" + bytes(200)])
def test_what_is_no_elf_file(data):
    with pytest.raises(ValueError, match="not a 64-bit elf file"):
        elf.machine(data)


def test_every_cut_is_told_or_leaves_whole_sections(made):
    whole = elf.sections(made)
    for length in range(0, len(made), 37):
        with pytest.raises(ValueError, match="elf file"):
            # the table of sections lies at the end
            elf.sections(made[:length])
    assert len(whole) > 8
