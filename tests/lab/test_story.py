import io

import pytest

from hopline.lab.story import Story
from hopline.lab.tcpdump import describe, parse

pytestmark = pytest.mark.rootless

REQUEST = (
    "20:20:14.078953 08:00:27:3b:8d:be > 52:54:00:12:35:00, ethertype IPv4 (0x0800), length 98: "
    "10.10.2.7 > 10.10.3.5: ICMP echo request, id 5349, seq 1, length 64"
)
REPLY = (
    "20:20:15.747499 08:00:27:99:cf:ce > 08:00:27:3b:8d:be, ethertype IPv4 (0x0800), length 98: "
    "10.10.3.5 > 10.10.2.7: ICMP echo reply, id 5358, seq 1, length 64"
)
ARP = (
    "20:20:14.0 08:00:27:3b:8d:be > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 42: "
    "Request who-has 10.10.2.1 tell 10.10.2.7, length 28"
)
NAMES = {"08:00:27:3b:8d:be": "B", "52:54:00:12:35:00": "gateway"}


def told(*checks):
    out = io.StringIO()
    story = Story(out)
    story.step("first", "one thing")
    for what, expected, seen in checks:
        story.check(what, expected, seen)
    return story.conclude(), out.getvalue()


def test_a_story_in_which_all_agrees_ends_with_0():
    code, text = told(("ping", "3 of 3 answered", "3 of 3 answered"))
    assert code == 0
    assert "1 of 1 as expected" in text


def test_a_story_in_which_one_check_differs_ends_with_1_and_says_where():
    code, text = told(("ping", "3 of 3", "3 of 3"), ("path", "B > A", "B > gateway"))
    assert code == 1
    assert "DIFFERS" in text
    assert "steps that differ: 1" in text


def test_a_story_without_checks_proves_nothing():
    assert told()[0] == 1


def test_square_brackets_are_text_and_not_markup():
    _, text = told(("ping", "[fe80::1]", "[bold]x[/bold]"))
    assert "[bold]x[/bold]" in text


def test_a_long_line_is_not_wrapped():
    out = io.StringIO()
    Story(out).output([REQUEST])
    assert REQUEST in out.getvalue()


def test_tcpdump_lines_are_read_and_others_left_out():
    echoes = parse([REQUEST, ARP, "", REPLY, "3 packets captured"])
    assert [echo.kind for echo in echoes] == ["request", "reply"]
    assert {echo.pinger for echo in echoes} == {"10.10.2.7"}


def test_a_path_is_told_with_names_and_counts_and_an_unknown_mac_stays():
    echoes = parse([REQUEST, REPLY, REQUEST])
    assert describe(echoes, NAMES) == "2 requests B > gateway, 1 reply 08:00:27:99:cf:ce > B"


def test_silence_has_a_word():
    assert describe([], NAMES) == "nothing"
