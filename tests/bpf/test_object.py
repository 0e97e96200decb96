"""Objects and programs: variables, choice of programs, sharing of maps, refusals, runs on a packet of ours."""

import errno
import os

import pytest

from bpf.fixtures import compiled
from hopline.errors import KernelError, LayoutError, VerifierRefusal
from hopline.kernel import BpfObject, Map, Program, XdpLink, bpffs, has_helper, netns
from hopline.kernel.object import ObjectFile

PASS, TX = 2, 3


def loaded(*programs, **variables):
    kernel_object = BpfObject.open(compiled("pipe"))
    kernel_object.set_rodata(**variables)
    if programs:
        kernel_object.only(*programs)
    kernel_object.load()
    return kernel_object


@pytest.mark.parametrize(
    ("variables", "retval"),
    [
        ({}, 1),
        ({"answer": 4}, 4),
        ({"strict": True}, 1),
        ({"answer": 5, "delta": -2}, 3),
        ({"key": b"\0\0\0\x01"}, 2),
        ({"answer": 4, "strict": True}, 1),
    ],
)
def test_rodata_is_set_by_name(variables, retval):
    with loaded("pipe", **variables) as kernel_object, kernel_object.program("pipe") as program:
        assert program.test_run(bytes(60)).retval == retval


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"nobody": 1}, "pipe.bpf.o: no read-only variable nobody"),
        ({"answer": 1 << 32}, "set variable answer: 4294967296 does not fit in 4 bytes"),
        ({"answer": -1}, "set variable answer: -1 does not fit"),
        ({"strict": 2}, "set variable strict: 2 is neither true nor false"),
        ({"key": b"123"}, "set variable key: 3 bytes given, it has 4"),
        ({"key": 7}, "set variable key: a array takes bytes"),
    ],
)
def test_a_wrong_variable_is_named(variables, text):
    with BpfObject.open(compiled("pipe")) as kernel_object, pytest.raises(LayoutError) as error:
        kernel_object.set_rodata(**variables)
    assert text in str(error.value)


def test_a_refusal_shows_the_last_line_and_keeps_the_whole_log(capfd):
    with BpfObject.open(compiled("bad")) as kernel_object, pytest.raises(VerifierRefusal) as error:
        kernel_object.load()
    assert error.value.errno == errno.EACCES
    assert str(error.value).startswith("load program careless of bad.bpf.o: permission denied (errno 13): ")
    log = error.value.log.splitlines()
    assert log[-1].startswith("processed ")
    assert str(error.value).endswith(log[-2])
    assert any("invalid access to packet" in line for line in log)
    assert any(line.startswith("0: ") for line in log)
    assert capfd.readouterr() == ("", "")


def test_only_what_is_chosen_is_loaded():
    with loaded("other") as kernel_object:
        assert kernel_object.program("other").test_run(bytes(60)).retval == PASS
        with pytest.raises(KernelError):
            kernel_object.program("pipe")
        with pytest.raises(LayoutError, match="no program nobody among pipe, other"):
            kernel_object.program("nobody")


def test_nothing_is_taken_from_an_object_that_is_not_loaded():
    with BpfObject.open(compiled("pipe")) as kernel_object:
        with pytest.raises(KernelError, match="load the object first"):
            kernel_object.program("pipe")
        with pytest.raises(KernelError, match="load the object first"):
            kernel_object.map("table")
        kernel_object.load()
        with pytest.raises(KernelError, match="open the object afresh"):
            kernel_object.set_rodata(answer=1)


def test_two_objects_share_a_map():
    with loaded("pipe") as first, BpfObject.open(compiled("pipe")) as second:
        table = first.map("table")
        second.reuse("table", table)
        second.load()
        second.map("table").set(5, 6)
        assert second.map("table").id == table.id
        assert table.get(5) == 6


@pytest.mark.parametrize(
    ("create", "text"),
    [
        ((1, "m", 4, 8, 200000, 1), "value size is 8, the object wants 4"),
        ((1, "m", 8, 4, 200000, 1), "key size is 8, the object wants 4"),
        ((1, "m", 4, 4, 100, 1), "max entries is 100, the object wants 200000"),
        ((9, "m", 4, 4, 200000, 0), "type is 9, the object wants 1"),
        ((1, "m", 4, 4, 200000, 0), "flags is 0, the object wants 1"),
    ],
)
def test_a_map_of_another_shape_is_not_shared(create, text):
    with Map.create(*create) as wrong, BpfObject.open(compiled("pipe")) as kernel_object:
        with pytest.raises(KernelError) as error:
            kernel_object.reuse("table", wrong)
        assert text in str(error.value)
        kernel_object.resize("table", 50)


def test_resize_takes_effect():
    with BpfObject.open(compiled("pipe")) as kernel_object:
        kernel_object.resize("table", 50)
        kernel_object.load()
        assert kernel_object.map("table").max_entries == 50


@pytest.mark.parametrize("length", [14, 60, 1514, 3000, 4096, 9014])
def test_packets_of_all_sizes_run(length):
    with loaded("pipe") as kernel_object:
        packet = os.urandom(length)
        run = kernel_object.program("pipe").test_run(packet)
        assert run.data == packet
        assert kernel_object.map("counters").sums()["bytes"][1] == length  # lo has index 1


@pytest.mark.parametrize("frags", [True, False])
def test_frags_can_be_taken_away(pair, frags):
    pair.sh("ip link set left0 mtu 9000 && ip link set right0 mtu 9000")
    with BpfObject.open(compiled("pipe")) as kernel_object:
        kernel_object.set_frags("pipe", frags)
        kernel_object.only("pipe")
        kernel_object.load()
        attach = (XdpLink.attach, kernel_object.program("pipe"), pair.left_index, "native")
        if frags:
            netns.run_in(pair.namespace, *attach).close()
        else:
            with pytest.raises(KernelError, match="try mode generic"):
                netns.run_in(pair.namespace, *attach)


@pytest.mark.parametrize(("program", "change"), [("shrink", lambda p: p[4:]), ("grow", None)])
def test_the_packet_that_leaves_is_returned(program, change):
    packet = os.urandom(64)
    with loaded(program) as kernel_object:
        run = kernel_object.program(program).test_run(packet)
    assert run.retval == TX
    if change is None:
        assert len(run.data) == 84
        assert run.data[20:] == packet
    else:
        assert run.data == change(packet)


def test_a_packet_shorter_than_an_ethernet_header_is_an_error():
    with loaded("pipe") as kernel_object, pytest.raises(KernelError, match="test-run pipe on 13 bytes"):
        kernel_object.program("pipe").test_run(bytes(13))


def test_the_context_carries_the_interface(pair):
    with loaded("pipe") as kernel_object:
        program = kernel_object.program("pipe")
        netns.run_in(pair.namespace, lambda: program.test_run(bytes(60), ifindex=pair.left_index))
        assert kernel_object.map("counters").sums()["packets"][pair.left_index & 63] == 1
        with pytest.raises(KernelError, match="an interface of this namespace"):
            program.test_run(bytes(60), ifindex=99999)


def test_a_program_is_found_by_id_and_by_pin():
    directory = bpffs.instance_dir(f"hl-test-{os.getpid()}")
    try:
        with loaded("pipe") as kernel_object:
            program = kernel_object.program("pipe")
            program.pin(directory / "pipe")
        by_pin = Program.from_pin(directory / "pipe")
        assert (by_pin.id, by_pin.name, by_pin.tag) == (program.id, "pipe", program.tag)
        assert Program.from_id(program.id).test_run(bytes(20)).retval == 1
        info = by_pin.info()
        assert info.xlated_bytes > 0
        assert info.uid == 0
        assert info.map_ids
        with pytest.raises(KernelError, match="a prog, not a map"):
            Map.from_pin(directory / "pipe")
        with pytest.raises(KernelError, match="choose a name without a dot"):
            by_pin.pin(directory / "a.b")
        by_pin.unpin()
        assert not (directory / "pipe").exists()
    finally:
        for left in directory.iterdir():
            left.unlink()
        directory.rmdir()


@pytest.mark.parametrize("path", ["/nowhere/x.bpf.o", "/etc/hostname", "/etc"])
def test_a_file_that_is_no_object_is_named(path):
    with pytest.raises(KernelError, match=f"open object {path}: "):
        BpfObject.open(path)


def test_helpers_are_probed_by_type():
    assert has_helper(6, 51)  # redirect_map in XDP
    assert not has_helper(6, 73)  # lwt_push_encap


def test_an_object_file_stays_what_it_was_when_its_package_is_upgraded(tmp_path):
    path = tmp_path / "pipe.bpf.o"
    path.write_bytes(compiled("pipe").read_bytes())
    file, same = ObjectFile(path), ObjectFile(compiled("pipe"))
    assert (file.digest, file.name, len(file.digest)) == (same.digest, "pipe", 16)
    path.write_bytes(b"another build")
    assert ObjectFile(path).digest != file.digest
    path.unlink()
    with file.open() as opened:
        assert opened.programs() == BpfObject.open(compiled("pipe")).programs()
        opened.load()
    with pytest.raises(KernelError, match="build the package"):
        ObjectFile(path)


def test_a_map_tells_all_layouts_of_the_object_that_made_it(tmp_path):
    with loaded() as opened:
        name = next(name for name in opened.maps() if opened.map(name).layout() is not None)
        layout = opened.map(name).layout()
        assert layout.btf.types
    assert Map.create(2, "plain", 4, 4, 1).layout() is None
