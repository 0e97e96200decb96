"""How a change of the intent is shown."""

import click
import pytest

from hopline.cli import difference
from hopline.daemon.protocol import Applied, Counts, Difference

ONE = {"address": "10.0.0.1", "weight": 1, "drained": False}
WEB = {"name": "web", "vip": "10.9.0.1", "port": "80", "protocol": "tcp", "encap": "ipip", "idle": 900}
FORWARD = {"to": "10.0.0.5", "dev": "right", "dst_mac": "02:00:00:00:02:02"}


def shown(*differences, **counts):
    applied = Applied(revision=1, counts=counts, differences=list(differences))
    return [click.unstyle(line) for line in difference.lines(applied)]


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (
            Difference("forward", "10.0.0.5", None, FORWARD),
            "+ forward 10.0.0.5  dev right  dst_mac 02:00:00:00:02:02",
        ),
        (Difference("forward", "10.0.0.5", {**FORWARD, "src_mac": None}, None),
         "- forward 10.0.0.5  dev right  dst_mac 02:00:00:00:02:02"),
        (
            Difference("forward", "10.0.0.5", FORWARD, {"to": "10.0.0.5", "dev": "right", "via": "10.0.0.1"}),
            "~ forward 10.0.0.5  dst_mac 02:00:00:00:02:02 → -  via - → 10.0.0.1",
        ),
        (
            Difference("interface", "left", None, {"name": "left", "mode": "auto", "bypass_policy": False}),
            "+ interface left",
        ),
        (
            Difference("interface", "left", {"name": "left", "mode": "native", "bypass_policy": False}, None),
            "- interface left  mode native",
        ),
        (
            Difference(
                "interface",
                "left",
                {"name": "left", "mode": "auto", "bypass_policy": False},
                {"name": "left", "mode": "auto", "bypass_policy": True},
            ),
            "~ interface left  bypass_policy false → true",
        ),
        (
            Difference("service", "web", None, {**WEB, "backend": [ONE, {**ONE, "address": "10.0.0.2", "weight": 3}]}),
            "+ service web  vip 10.9.0.1  port 80  protocol tcp  backend 10.0.0.1, 10.0.0.2 (weight 3)",
        ),
        (
            Difference("service", "web", WEB, {**WEB, "idle": 30, "backend": [ONE]}),
            "~ service web  idle 900 → 30  backend + 10.0.0.1",
        ),
        (
            Difference(
                "service",
                "web",
                {**WEB, "backend": [ONE, {**ONE, "address": "10.0.0.2"}]},
                {
                    **WEB,
                    "backend": [{**ONE, "weight": 2, "drained": True}, {**ONE, "address": "10.0.0.3", "weight": 0}],
                },
            ),
            "~ service web  backend + 10.0.0.3 (weight 0), ~ 10.0.0.1 weight 1 → 2, drained false → true, - 10.0.0.2",
        ),
        (
            Difference("service", "web", {**WEB, "backend": []},
                       {**WEB, "backend": [{**ONE, "address": f"10.0.0.{n}"} for n in range(1, 21)]}),
            "~ service web  backend + 10.0.0.1, + 10.0.0.2, + 10.0.0.3, + 10.0.0.4, + 10.0.0.5, + 10.0.0.6, + 10.0.0.7,"
            " + 10.0.0.8, … 12 more",
        ),
        (
            Difference("decap", "10.0.0.1 gue from any", None,
                       {"local": "10.0.0.1", "from": "any", "encap": "gue", "gue_port": 7000}),
            "+ decap 10.0.0.1 gue from any  gue_port 7000",
        ),
    ],
)  # fmt: skip
def test_an_entry_is_a_line_that_says_what_need_be_said(one, line):
    assert shown(one)[0] == line


def test_kinds_come_in_order_and_the_sum_is_last():
    lines = shown(
        Difference("forward", "10.0.0.1", FORWARD, None),
        Difference("interface", "left", None, {"name": "left"}),
        Difference("forward", "10.0.0.5", None, FORWARD),
        interface=Counts(added=1),
        forward=Counts(added=1, removed=1),
    )
    assert [line[:12] for line in lines[:3]] == ["+ interface ", "+ forward 10", "- forward 10"]
    assert lines[3] == "interface: 1 added; forward: 1 added, 1 removed"


def test_a_hundred_of_each_kind_are_shown_and_the_rest_is_counted():
    many = [Difference("forward", f"10.0.0.{n}", None, FORWARD) for n in range(150)]
    lines = shown(*many, Difference("forward", "10.1.0.1", FORWARD, None), forward=Counts(1_000_000, 7, 4))
    assert len([line for line in lines if line.startswith("+ forward")]) == 100
    assert lines[100] == "+ … and 999900 more"
    assert lines[101] == "~ … 7 entries"
    assert lines[102].startswith("- forward 10.1.0.1")
    assert lines[103:] == ["- … and 3 more", "forward: 1000000 added, 7 changed, 4 removed"]


def test_a_terminal_gets_a_colour_for_each_kind():
    applied = Applied(
        revision=1,
        counts={"forward": Counts(1, 1, 1)},
        differences=[
            Difference("forward", "10.0.0.1", None, FORWARD),
            Difference("forward", "10.0.0.2", FORWARD, {**FORWARD, "dev": "left"}),
            Difference("forward", "10.0.0.3", FORWARD, None),
        ],
    )
    lines = list(difference.lines(applied))
    assert [line[:5] for line in lines[:3]] == ["\x1b[32m", "\x1b[33m", "\x1b[31m"]
    assert lines[3] == "forward: 1 added, 1 changed, 1 removed"


def test_nothing_is_no_difference():
    assert shown() == ["no difference"]
    assert not difference.differs(Applied(revision=1, counts={"forward": Counts()}))
