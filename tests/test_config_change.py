"""Changes of a service and of a backend where they are."""

import pytest

from hopline.config import (
    Backend,
    BackendChange,
    Service,
    ServiceChange,
    checked_change,
    with_backends,
    without_backend,
)
from hopline.errors import InvalidInput

WEB = Service("web", "10.0.0.33", "80", "tcp", local="10.0.0.10", backend=(Backend("10.0.0.1"), Backend("10.0.0.2", 3)))


def refusal(function, *arguments):
    with pytest.raises(InvalidInput) as caught:
        function(*arguments)
    return [str(problem) for problem in caught.value.problems]


def test_what_is_given_changes_and_the_rest_stays():
    changed = ServiceChange(port=443, idle=60, local=None).of(WEB)
    assert (changed.port, changed.idle, changed.local) == ("443", 60, None)
    assert (changed.name, changed.vip, changed.backend) == (WEB.name, WEB.vip, WEB.backend)
    assert BackendChange(weight=7).of(Backend("10.0.0.1", via="10.0.0.2")) == Backend("10.0.0.1", 7, "10.0.0.2")
    assert BackendChange(via=None, drained=True).of(Backend("10.0.0.1", 2, "10.0.0.2")).via is None


def test_a_change_is_seen_beside_what_stays():
    assert refusal(ServiceChange(vip="10.0.0.2").of, WEB) == [
        "backend[1].address: 10.0.0.2 is the VIP itself: give the server's own address"
    ]
    assert refusal(ServiceChange(gue_port=7000).of, WEB)[0].startswith("gue_port: given with encap ipip")


def test_each_field_is_looked_at_by_itself_first():
    right = ServiceChange(idle=60, local=None)
    assert checked_change(right) is right
    assert refusal(checked_change, ServiceChange(idle=0, ring=100)) == [
        "ring: 100 is out of range: give a prime from 251 to 1048573",
        "idle: 0 is out of range: give a whole number, 1 to 604800",
    ]
    assert refusal(checked_change, BackendChange(weight=-1, dev="a b"))[0].startswith("weight: -1 is out of range")
    for nothing in (ServiceChange(), BackendChange()):
        (line,) = refusal(checked_change, nothing)
        assert line.startswith("body: changes nothing: give one of ")


def test_backends_come_change_in_their_place_and_go():
    more = with_backends(WEB, Backend("10.0.0.3"), Backend("10.0.0.1", 5))
    assert more.backend == (Backend("10.0.0.1", 5), Backend("10.0.0.2", 3), Backend("10.0.0.3"))
    assert without_backend(more, "10.0.0.2").backend == (Backend("10.0.0.1", 5), Backend("10.0.0.3"))
    # the one that was given needs no place; of several it is said
    assert refusal(with_backends, WEB, Backend("10.0.0.33"))[0].startswith("address: 10.0.0.33 is the VIP itself")
    assert refusal(with_backends, WEB, Backend("10.0.0.4"), Backend("10.0.0.33"))[0].startswith("backend[3].address: ")
    small = Service("s", "10.0.0.33", "80", "tcp", ring=251, backend=tuple(Backend(f"10.1.0.{n}") for n in range(251)))
    assert refusal(with_backends, small, Backend("10.2.0.1"))[0].startswith("ring: 251 slots are fewer than its 252")
