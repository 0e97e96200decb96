"""What a daemon tells of itself: faults by name, and hits that never go back."""

import pytest

from daemon.test_metrics import host
from hopline.daemon.counters import SlotCounters
from hopline.daemon.reading import HitCounter, InterfaceReading


def counted(looked_up: int, misses: int, before: int = 0) -> SlotCounters:
    packets = {"FORWARDED": looked_up, "PASS_NOT_IP": before, "PASS_MARTIAN": before}
    return SlotCounters(packets, dict.fromkeys(packets, 0), misses)


def test_hits_are_what_was_looked_up_less_the_misses():
    assert (counted(100, 30, before=7).looked_up, counted(100, 30, before=7).hits) == (100, 70)


def test_a_packet_under_way_is_no_negative_hit():
    assert counted(10, 12).hits == 0


def test_hits_never_go_back():
    hits = HitCounter()
    assert hits.update({1: counted(100, 30), 2: counted(5, 5)}) == {1: 70, 2: 0}
    # 40 packets missed between the reading of the one number and of the other
    assert hits.update({1: counted(110, 80), 2: counted(9, 5)}) == {1: 70, 2: 4}
    assert hits.update({1: counted(150, 80)}) == {1: 70}
    assert hits.update({1: counted(160, 80)}) == {1: 80}


def test_hits_begin_anew_with_another_device():
    hits = HitCounter()
    assert hits.update({1: counted(100, 30)}) == {1: 70}
    assert hits.update({1: counted(4, 1)}) == {1: 3}, "the slot was given away and zeroed"
    assert hits.update({}) == {}
    assert hits.update({1: counted(5, 3)}) == {1: 2}, "it was free in between"


def test_all_is_well():
    assert host(interfaces=[InterfaceReading("left", 4, True, {})]).faults() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"following": False}, "events are not followed"),
        ({"lease_age_s": None}, "the lease was not extended: what"),
        ({"lease_age_s": 2.04}, "the lease was not extended for 2.0 s"),
        (
            {"interfaces": [InterfaceReading("eth9", None, False, {}, "no such device")]},
            "eth9 is not attached: no such",
        ),
    ],
)
def test_what_is_wrong_is_named(settings, words):
    (fault,) = host(**{"interfaces": [], **settings}).faults()
    assert words in fault


def test_all_that_is_wrong_is_named():
    assert len(host(following=False, lease_age_s=None).faults()) == 4
