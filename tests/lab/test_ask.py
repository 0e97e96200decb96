"""`forward get`: the answer is what a packet would get, by whichever interface it could come in."""

import pytest

import hopline
from lab.net import AUTO
from lab.traffic import attach


@pytest.fixture
def ask(wide, daemon):
    """The answer about a destination, on a node whose interfaces were attached in the order given."""
    one = daemon(wide.ns)

    def answer(address: str, in_dev: str | None = None):
        return hopline.connect(one.instance).forward.get(address, in_dev=in_dev)

    answer.daemon = one
    return answer


@pytest.mark.parametrize("order", [("left", "right"), ("right", "left")], ids="-".join)
@pytest.mark.parametrize("family", ["ip4", "ip6"])
def test_without_an_interface_it_is_asked_where_the_packet_would_not_go_out_again(wide, ask, order, family):
    attach(ask.daemon, *order)
    for end, dev in ((wide.server, "right"), (wide.client, "left")):
        answer = ask(getattr(end, family))
        assert (answer.verdict, answer.dev, answer.dst_mac) == ("FORWARDED", dev, end.mac), answer
        assert answer.why[0] == f"came in by {({'left', 'right'} - {dev}).pop()} ({AUTO} xdp)"


def test_where_there_is_no_other_interface_it_says_what_this_one_would_do(wide, ask):
    attach(ask.daemon, "right")
    assert ask(wide.server.ip4).verdict == "PASS_HAIRPIN"
    assert ask(wide.client.ip4).verdict == "FORWARDED"


def test_an_interface_that_is_named_is_asked_whatever_it_says(wide, ask):
    attach(ask.daemon, "right", "left")
    assert ask(wide.server.ip4, "right").verdict == "PASS_HAIRPIN"
    assert ask(wide.server.ip4, "left").verdict == "FORWARDED"
    assert ask(wide.right.ip4).verdict == "PASS_LOCAL"


def test_with_nothing_attached_it_says_so(wide, ask):
    answer = ask(wide.server.ip4)
    assert answer.verdict == "NOT_ATTACHED"
    assert "hopline interface add" in answer.why[0]
