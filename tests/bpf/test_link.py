"""XDP links on veth pairs: modes, atomic updates under traffic, pins, and what others left on the interface."""

import contextlib
import errno
import os
import shutil
import socket
import threading

import pytest

from bpf.conftest import veth_pair
from bpf.fixtures import compiled
from hopline.errors import KernelError, Refused
from hopline.kernel import BpfObject, XdpLink, bpffs, netns, query, replace_foreign
from hopline.kernel._libbpf import lib
from hopline.kernel.link import detach_pin, remove_pins


@contextlib.contextmanager
def programs():
    """An object with the programs pipe (passes) and other."""
    with BpfObject.open(compiled("pipe")) as kernel_object:
        kernel_object.set_rodata(answer=2)
        kernel_object.only("pipe", "other")
        kernel_object.load()
        yield kernel_object


@pytest.mark.parametrize(("asked", "got"), [("auto", "native"), ("native", "native"), ("generic", "generic")])
def test_the_mode_really_used_is_known(pair, asked, got):
    def scenario():
        assert query(pair.left_index) is None
        with XdpLink.attach(program, pair.left_index, asked) as link:
            found = query(pair.left_index)
            assert (link.mode, found.mode) == (got, got)
            assert (found.program_id, found.name, found.tag) == (program.id, "pipe", program.tag)
            assert found.link_id == link.id
            assert (link.ifindex, link.program_id) == (pair.left_index, program.id)
            assert XdpLink.from_id(link.id).mode == got
        assert query(pair.left_index) is None

    with programs() as kernel_object:
        program = kernel_object.program("pipe")
        netns.run_in(pair.namespace, scenario)


def test_auto_falls_back_where_the_driver_cannot(pair):
    def scenario():
        with pytest.raises(KernelError, match=r"attach xdp pipe to lo: .*the driver has no native xdp") as error:
            XdpLink.attach(program, 1, "native")
        assert error.value.errno == errno.EOPNOTSUPP
        with XdpLink.attach(program, 1) as link:
            assert link.mode == "generic"

    with programs() as kernel_object:
        program = kernel_object.program("pipe")
        netns.run_in(pair.namespace, scenario)


@pytest.mark.parametrize("mode", ["auto", "native", "generic"])
@pytest.mark.parametrize("there", ["link", "netlink"])
def test_another_program_is_named_and_left_alone(pair, mode, there):
    def scenario():
        link = None
        if there == "link":
            link = XdpLink.attach(other, pair.left_index, "native")
        else:
            assert lib.hl_xdp_attach(pair.left_index, other.fd, 1 << 2) == 0
        with pytest.raises(Refused) as error:
            XdpLink.attach(program, pair.left_index, mode)
        assert str(error.value) == (
            f"attach xdp pipe to left0: another program (id {other.id}, other) is attached: unload it or use --replace"
        )
        assert query(pair.left_index).program_id == other.id
        del link

    with programs() as kernel_object:
        program, other = kernel_object.program("pipe"), kernel_object.program("other")
        netns.run_in(pair.namespace, scenario)


@pytest.mark.parametrize("there", ["link", "netlink"])
@pytest.mark.parametrize("old_mode", ["native", "generic"])
@pytest.mark.parametrize("new_mode", ["native", "generic"])
def test_replace_takes_over_from_anything(pair, there, old_mode, new_mode):
    def scenario():
        link = None
        if there == "link":
            link = XdpLink.attach(other, pair.left_index, old_mode)
        else:
            assert lib.hl_xdp_attach(pair.left_index, other.fd, 4 if old_mode == "native" else 2) == 0
        with replace_foreign(pair.left_index, program, new_mode) as ours:
            found = query(pair.left_index)
            assert (found.program_id, found.mode, found.link_id) == (program.id, new_mode, ours.id)
        if link is not None:
            assert link.ifindex == 0

    with programs() as kernel_object:
        program, other = kernel_object.program("pipe"), kernel_object.program("other")
        netns.run_in(pair.namespace, scenario)


def test_replace_on_an_empty_interface_only_attaches(pair):
    with programs() as kernel_object:
        link = netns.run_in(pair.namespace, replace_foreign, pair.left_index, kernel_object.program("pipe"))
        assert link.program_id


def test_a_replace_that_fails_puts_the_old_program_back(pair):
    def scenario():
        link = XdpLink.attach(other, 1, "generic")  # lo: ours cannot go native there
        with pytest.raises(KernelError) as error:
            replace_foreign(1, program, "native")
        assert error.value.errno == errno.EOPNOTSUPP
        back = f"the program it had (id {other.id}, other) is attached again"
        assert str(error.value).endswith(f": the driver has no native xdp; use mode generic: {back}")
        assert query(1).program_id == other.id
        del link

    with programs() as kernel_object:
        program, other = kernel_object.program("pipe"), kernel_object.program("other")
        netns.run_in(pair.namespace, scenario)


def test_updates_from_two_threads_under_traffic_lose_nothing(pair):
    """Every frame is counted by one program or the other, at the receiver's socket too."""
    frames, rounds = 2000, 30
    with programs() as kernel_object:
        both = [kernel_object.program("pipe"), kernel_object.program("other")]
        counters = kernel_object.map("counters")
        link = netns.run_in(pair.namespace, XdpLink.attach, both[0], pair.right_index, "native")
        failures = []

        def swap(start):
            try:
                for turn in range(rounds):
                    link.update(both[(start + turn) % 2])
            except KernelError as error:
                failures.append(error)

        def packet_socket(device):
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
            opened.bind((device, 0x88B5))
            return opened

        sender = netns.run_in(pair.namespace, packet_socket, "left0")
        receiver = netns.run_in(pair.namespace, packet_socket, "right0")
        receiver.settimeout(0.5)
        threads = [threading.Thread(target=swap, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        frame = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5" + bytes(46)
        received = 0
        with sender, receiver:
            for _ in range(frames):
                sender.send(frame)
                received += len(receiver.recv(100)) == len(frame)
        for thread in threads:
            thread.join()
        assert failures == []
        assert received == frames
        assert counters.sums()["packets"].sum() >= frames  # router solicitations are counted as well
        link.close()


def test_a_pinned_link_outlives_its_process(pair):
    directory = bpffs.instance_dir(f"hl-test-{os.getpid()}")
    try:
        with programs() as kernel_object:
            link = netns.run_in(pair.namespace, XdpLink.attach, kernel_object.program("pipe"), pair.left_index)
            link.pin(directory / "left0")
            number = link.id
            link.close()
        again = XdpLink.from_pin(directory / "left0")
        assert (again.id, again.ifindex) == (number, pair.left_index)
        assert netns.run_in(pair.namespace, lambda: again.mode) == "native"
        again.unpin()
        again.close()
        assert netns.run_in(pair.namespace, query, pair.left_index) is None
    finally:
        for left in directory.iterdir():
            left.unlink()
        directory.rmdir()


def test_detach_works_while_a_pin_remains(pair):
    directory = bpffs.instance_dir(f"hl-test-{os.getpid()}")
    try:
        with programs() as kernel_object:
            link = netns.run_in(pair.namespace, XdpLink.attach, kernel_object.program("pipe"), pair.left_index)
            link.pin(directory / "left0")
            link.detach()
            link.detach()
            assert link.ifindex == 0
            assert netns.run_in(pair.namespace, query, pair.left_index) is None
            link.unpin()
    finally:
        directory.rmdir()


def test_an_instance_is_removed_with_links_that_run_and_links_whose_interface_is_gone():
    directory = bpffs.instance_dir(f"hl-test-{os.getpid()}")
    try:
        with veth_pair("pins") as pair, programs() as kernel_object:
            pair.sh("ip link add brief0 type veth peer name brief1")
            for device in ("left0", "right0", "brief0"):
                index = netns.run_in(pair.namespace, socket.if_nametoindex, device)
                with netns.run_in(pair.namespace, XdpLink.attach, kernel_object.program("pipe"), index) as link:
                    link.pin(directory / f"link_{index}")
            kernel_object.map("counters").pin(directory / "counters")
            pair.sh("ip link del brief0")
            detach_pin(directory / f"link_{pair.left_index}")
            assert not (directory / f"link_{pair.left_index}").exists()
            attached = [netns.run_in(pair.namespace, query, index) for index in (pair.left_index, pair.right_index)]
            assert [found and found.name for found in attached] == [None, "pipe"]
            # a link that others hold is detached too
            held = XdpLink.from_pin(directory / f"link_{pair.right_index}")
            remove_pins(directory)
            assert netns.run_in(pair.namespace, query, pair.right_index) is None
            assert held.ifindex == 0
            assert not directory.exists()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_an_interface_that_goes_leaves_a_link_that_says_so():
    with veth_pair("gone") as pair, programs() as kernel_object:
        link = netns.run_in(pair.namespace, XdpLink.attach, kernel_object.program("pipe"), pair.left_index)
        pair.sh("ip link del left0")
        assert link.ifindex == 0
        with pytest.raises(KernelError) as error:
            link.update(kernel_object.program("other"))
        assert error.value.errno == errno.ENOLINK
        link.detach()


@pytest.mark.parametrize("ifindex", [0, 99999, -1])
def test_no_such_interface(pair, ifindex):
    with programs() as kernel_object, pytest.raises(KernelError, match=f"to interface {ifindex}: "):
        netns.run_in(pair.namespace, XdpLink.attach, kernel_object.program("pipe"), ifindex)
