"""XDP programs attached by netlink: in a mode, in place of the one that is expected there, and off again."""

import errno

import pytest

from bpf.test_link import programs
from hopline.errors import KernelError, Refused
from hopline.kernel import XdpLink, attach, netns, query


@pytest.mark.parametrize(("asked", "got"), [("auto", "native"), ("native", "native"), ("generic", "generic")])
def test_it_stays_without_a_descriptor_and_goes_when_told(pair, asked, got):
    def scenario():
        with programs() as found, found.program("pipe") as program:
            assert attach.attach(program, pair.left_index, asked) == got
            number = program.id
        there = query(pair.left_index)
        assert (attach.mode_of(there), there.program_id, there.link_id) == (got, number, None)
        with attach.Program.from_id(number) as same:
            other = "generic" if got == "native" else "native"
            with pytest.raises(KernelError) as error:
                attach.detach(pair.left_index, same, other)
            assert error.value.errno == errno.EEXIST
            assert query(pair.left_index) == there
            assert attach.detach(pair.left_index, same, got)
        assert query(pair.left_index) is None

    netns.run_in(pair.namespace, scenario)


def test_only_what_is_expected_is_replaced(pair):
    def scenario():
        with programs() as found, found.program("pipe") as one, found.program("other") as other:
            attach.attach(one, pair.left_index)
            known = rf"another program \(id {one.id}, pipe\) is attached"
            with pytest.raises(Refused, match=f"attach xdp other to left0: {known}"):
                attach.attach(other, pair.left_index, "generic")
            with pytest.raises(Refused, match=f"replace xdp other of left0 by pipe: {known}"):
                attach.replace(one, pair.left_index, other, "native")
            assert query(pair.left_index).program_id == one.id
            assert attach.replace(other, pair.left_index, one, "native")
            assert query(pair.left_index).program_id == other.id
            with pytest.raises(KernelError, match="detach xdp pipe from left0"):
                attach.detach(pair.left_index, one, "native")

    netns.run_in(pair.namespace, scenario)


def test_what_a_link_holds_is_left_to_it(pair):
    def scenario():
        with programs() as found, found.program("pipe") as one, XdpLink.attach(one, pair.left_index) as link:
            assert not attach.replace(found.program("other"), pair.left_index, one, "native")
            assert not attach.detach(pair.left_index, one, "native")
            assert query(pair.left_index).link_id == link.id

    netns.run_in(pair.namespace, scenario)


def test_what_a_device_cannot(pair):
    def scenario():
        with programs() as found, found.program("pipe") as program:
            with pytest.raises(KernelError, match="use mode generic"):
                attach.attach(program, 1, "native")
            with pytest.raises(KernelError, match="attach xdp pipe to left0"):
                attach.attach(program, pair.left_index, "offload")
            with pytest.raises(KernelError, match="no such interface in this namespace"):
                attach.attach(program, 99999)
            with pytest.raises(ValueError, match="give one of auto, native, generic, offload"):
                attach.attach(program, 1, "any")
            assert query(1) is None

    netns.run_in(pair.namespace, scenario)
