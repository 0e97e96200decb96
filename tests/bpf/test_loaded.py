"""What the kernel has loaded: programs and maps by id and name, what they lock, when they came, whose they are."""

import time

import pytest

from bpf.fixtures import compiled
from hopline.errors import KernelError, NotFound
from hopline.kernel import BpfObject, loaded
from hopline.kernel.map import Map
from hopline.kernel.program import LWT_XMIT, XDP, Program, map_type, program_type


@pytest.fixture(scope="module")
def pipe():
    with BpfObject.open(compiled("pipe")) as found:
        found.set_rodata(answer=2)
        found.only("pipe", "other")
        found.load()
        yield found


def test_programs_are_listed_with_what_is_known_of_them(pipe):
    with pipe.program("pipe") as program:
        info = next(one for one in loaded.programs(XDP) if one.id == program.id)
        assert info == program.info()
        assert (info.name, info.gpl, info.device, info.uid) == ("pipe", True, 0, 0)
        assert program.id in set(loaded.program_ids())
        assert program.id not in {one.id for one in loaded.programs(LWT_XMIT)}
        assert abs(loaded.loaded_at(info.loaded_ns) - time.time()) < 60
        assert loaded.locked_bytes(program.fd) >= info.xlated_bytes
        assert loaded.program_layout(info).struct("counter").names == ("packets", "bytes")
        maps = loaded.open_maps(info)
        assert "counters" in {one.name for one in maps}
        for one in maps:
            one.close()
        gone = program.id
    assert gone in set(loaded.program_ids()), "the object has it still"


def test_a_program_is_found_by_its_name_if_it_is_the_only_one(pipe):
    with Map.create(2, "hl_test_only", 4, 8, 1), pipe.program("other") as program:
        with BpfObject.open(compiled("pipe")) as again:
            again.only("other")
            again.load()
            with pytest.raises(NotFound, match=rf"ids .*{program.id}.* are called so: name one by id"):
                loaded.find_program("other")
        assert loaded.find_program("other", XDP).id == program.id
    with pytest.raises(NotFound, match="program no_such_thing: not loaded"):
        loaded.find_program("no_such_thing")


def test_maps_are_found_by_name_and_id():
    with Map.create(1, "hl_test_a_long_name", 4, 16, 1000) as one:
        (found,) = loaded.maps("hl_test_a_long_name")
        assert found == loaded.map_info(one.id)
        assert (found.id, found.name) == (one.id, "hl_test_a_long_")
        assert (found.type, found.key_size, found.value_size, found.max_entries, found.flags) == (1, 4, 16, 1000, 0)
        assert found.locked_bytes > 16 * 1000
        assert one.id in set(loaded.map_ids())
        gone = one.id
    deadline = time.monotonic() + 5
    while loaded.maps("hl_test_a_long_name") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loaded.maps("hl_test_a_long_name") == []
    with pytest.raises(KernelError, match=f"open map id {gone}"):
        loaded.map_info(gone)


def test_types_have_names():
    assert [program_type(number) for number in (0, 6, 12, 19, 250)] == [
        "",
        "xdp",
        "lwt_xmit",
        "lwt_seg6local",
        "type 250",
    ]
    assert [map_type(number) for number in (6, 9, 27, 250)] == ["percpu_array", "lru_hash", "ringbuf", "type 250"]


def test_a_program_of_another_licence(tmp_path):
    from clang import compile_bpf

    text = '__attribute__((section("xdp"), used)) int plain(void *ctx) { return 2; }'
    text += '\nchar _license[] __attribute__((section("license"), used)) = "Proprietary";'
    with BpfObject.open(compile_bpf(tmp_path, text)) as found:
        found.load()
        with found.program("plain") as program, Program.from_id(program.id) as same:
            assert not same.info().gpl
