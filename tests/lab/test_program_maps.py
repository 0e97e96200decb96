"""host/program/maps.py: a map is found by id, pin, name or device, and listed with its types and users."""

import json
import subprocess

import pytest

from clang import compile_bpf
from hopline.cli import main as cli
from hopline.cli.program import map as map_command
from hopline.errors import InvalidInput, NotFound, Refused
from hopline.host.program import maps
from hopline.kernel import BpfObject, Map, bpffs, netns
from hopline.kernel.loaded import map_info
from hopline.lab.shell import hopline_command
from host.program_types import compiled
from lab.loading import LEFT, SOURCE, loading, loading_room
from lab.netlink_room import needs_root

pytestmark = needs_root

LONG = "hl_name_of_more_than_fifteen"


def found(name):
    with maps.find(name) as one:
        return one.id


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    return str(compile_bpf(tmp_path_factory.mktemp("program"), SOURCE))


@pytest.fixture
def pinned():
    """A map that is pinned in a directory of ours: its id, and the pin."""
    place = bpffs.instance_dir("hl_pins")
    try:
        with Map.create(2, LONG, 4, 8, 3) as one:
            one.pin(place / LONG)
            yield one.id, place / LONG
    finally:
        (place / LONG).unlink(missing_ok=True)
        place.rmdir()


def test_by_id_pin_and_name_even_if_the_kernel_cut_it(pinned):
    map_id, pin = pinned
    assert [found(name) for name in (str(map_id), str(pin), LONG, LONG[:15])] == [map_id] * 4


def test_one_name_of_several_is_refused_with_their_ids(pinned):
    map_id, _ = pinned
    with Map.create(1, LONG, 4, 4, 1) as other, pytest.raises(Refused) as caught:
        found(LONG)
    said = f"map {LONG}: ids {map_id}, {other.id} are called so: name one by its id, or as DEV/{LONG}"
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("4294967295", "map 4294967295: there is no such id: `hopline program map show` lists all"),
        ("99999999999", "map 99999999999: there is none of this name: `hopline program map show` lists all"),
        ("hl_absent", "map hl_absent: there is none of this name: "),
        ("/sys/fs/bpf/hl_absent", "map /sys/fs/bpf/hl_absent: there is no such pin: "),
        ("/etc/passwd", "map /etc/passwd: it is no pin of a map: "),
        ("/sys/fs/bpf", "map /sys/fs/bpf: it is no pin of a map: "),
        ("hl-none/verdicts", "interface hl-none: no such device here"),
    ],
)
def test_what_is_not_there(name, said):
    with pytest.raises(NotFound) as caught:
        found(name)
    assert str(caught.value).startswith(said)


def test_an_empty_name_is_a_slip():
    with pytest.raises(InvalidInput, match="map: none is named: give an id, the path of a pin, a name or DEV/NAME"):
        found("")


def test_a_pin_of_a_program_is_none_of_a_map(counting):
    with loading_room() as ns:
        done = loading(ns, counting, program="drop_everything_there", pin=True)
        program, verdicts = done.pins
        with pytest.raises(NotFound, match="it is no pin of a map"):
            found(program)
        map_id = found(verdicts)
        # by its name in the object, pinned or not
        assert netns.run_in(ns, found, f"{LEFT}/verdicts") == map_id
        row = netns.run_in(ns, maps.listed, f"{LEFT}/verdicts")[0]
        assert (row.pins, [user.id for user in row.programs]) == ([verdicts], [done.id])


def test_the_map_of_a_device_is_that_of_its_program(counting):
    with loading_room() as ns:
        done = loading(ns, counting, program="drop_everything_there")
        assert netns.run_in(ns, found, f"{LEFT}/verdicts") == next(one.id for one in done.maps)
        with pytest.raises(NotFound, match=rf"no map of .*drop_everything.* on {LEFT} is called so: it has verdicts"):
            netns.run_in(ns, found, f"{LEFT}/absent")
        with pytest.raises(NotFound, match="map right/verdicts: no xdp program on right, and no pin: load one"):
            netns.run_in(ns, found, "right/verdicts")


LONG_NAMES = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct held { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32);
            } hl_held_by_another SEC(".maps"), hl_inside SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 3); __type(key, __u32);
         __array(values, struct held); } hl_outer SEC(".maps") = { .values = { &hl_held_by_another, 0, &hl_inside } };
struct held hl_a_long_name_of_mine SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4);
       } hl_twins_of_one_kind SEC(".maps"), hl_twins_of_one_sort SEC(".maps");
SEC("xdp") int long_names(struct xdp_md *ctx)
{
    __u32 zero = 0;

    bpf_map_lookup_elem(&hl_twins_of_one_kind, &zero);
    bpf_map_lookup_elem(&hl_twins_of_one_sort, &zero);
    return bpf_map_lookup_elem(&hl_outer, &zero) && bpf_map_lookup_elem(&hl_a_long_name_of_mine, &zero) ? 1 : 2;
}
char _license[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def long_names(tmp_path_factory):
    """A room with a program whose maps have long names on LEFT, the object, and its maps' ids."""
    file = str(compile_bpf(tmp_path_factory.mktemp("program"), LONG_NAMES))
    with loading_room() as ns:
        yield ns, file, {one.name: one.id for one in loading(ns, file).maps}


def test_maps_in_the_maps_of_a_device_are_its_too(long_names):
    ns, _, _ = long_names
    held = [netns.run_in(ns, found, f"{LEFT}/{name}") for name in ("hl_held_by_another", "hl_inside")]
    assert [map_info(map_id).name for map_id in held] == ["hl_held_by_anot", "hl_inside"]
    with pytest.raises(NotFound, match=r"hl_held_by_another .*hl_inside"):
        netns.run_in(ns, found, f"{LEFT}/hl_held_by_anybody")


def test_a_long_name_is_compared_whole(long_names):
    ns, file, ids = long_names
    for name in ("hl_a_long_name_of_mine", "hl_a_long_name_"):
        wanted = ids["hl_a_long_name_of_mine"]
        assert netns.run_in(ns, found, f"{LEFT}/{name}") == netns.run_in(ns, found, name) == wanted
    with pytest.raises(NotFound, match=r"it has .*hl_a_long_name_of_mine \(id"):
        netns.run_in(ns, found, f"{LEFT}/hl_a_long_name_of_yours")
    with pytest.raises(NotFound, match="there is none of this name"):
        found("hl_a_long_name_of_yours")
    twins = sorted((ids["hl_twins_of_one_kind"], ids["hl_twins_of_one_sort"]))
    with pytest.raises(Refused, match=f"ids {twins[0]}, {twins[1]} are called so: name one by its id$"):
        netns.run_in(ns, found, f"{LEFT}/hl_twins_of_one_kind")
    # our pins tell them apart
    ids = {one.name: one.id for one in loading(ns, file, pin=True, replace=True).maps}
    for name in ("hl_twins_of_one_kind", "hl_twins_of_one_sort"):
        assert netns.run_in(ns, found, f"{LEFT}/{name}") == ids[name]


def test_of_a_map_that_nothing_tells_more_of_15_characters_are_its_name():
    with Map.create(2, LONG, 4, 8, 3) as one:
        assert found(LONG[:15]) == one.id
        said = f"map {LONG}: nothing tells more of such a name than {LONG[:15]}: name it so, or by its id {one.id}"
        with pytest.raises(Refused, match=f"^{said}$"):
            found(LONG)


def test_a_row_says_all_of_a_map(capsys):
    with BpfObject.open(compiled()) as kernel_object:
        kernel_object.load()
        with kernel_object.map("hl_prefixes") as prefixes, kernel_object.program("hl_types") as program:
            row = maps.listed(str(prefixes.id))[0]
            assert (row.id, row.type, row.name) == (prefixes.id, "lpm_trie", "hl_prefixes")
            assert (row.key_type, row.key_size) == ("struct prefix", 8)
            assert (row.value_type, row.value_size) == ("struct counter", 16)
            assert (row.max_entries, row.flags) == (64, ["no_prealloc"])
            assert [(user.id, user.name) for user in row.programs] == [(program.id, "hl_types")]
            assert [field.path for field in row.value] == ["packets", "bytes"]
            assert cli.main(["program", "map", "show", str(prefixes.id)]) == 0
            shown = capsys.readouterr().out.splitlines()
            assert shown[-2:] == ["key: struct prefix", "value: packets __u64, bytes __u64"]
            assert "hl_prefixes" in map_command._complete(None, None, "hl_pre")
            every = [kernel_object.map(name).id for name in kernel_object.maps()]
            assert cli.main(["program", "map", "--json"]) == 0
            rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
            assert set(every) <= set(rows)
            flow = next(row for row in rows.values() if row["name"] == "hl_everything" and row["id"] in every)
            paths = [field["path"] for field in flow["value"]]
            assert {"numbers.be16", "many[0..1].a", "either.v6", "three", "bit"} <= set(paths)


def test_the_command_itself(pinned):
    _, pin = pinned
    command = [hopline_command(), "program", "map"]
    for words, out in (
        (["set", str(pin), "2", "0700000000000000"], ""),
        (["get", LONG, "2"], "07 00 00 00 00 00 00 00\n"),
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, out, "")
    done = subprocess.run([*command, "get"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
