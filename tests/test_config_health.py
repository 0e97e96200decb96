"""How a check is written, and what is made of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopline.config.health import HealthCheck, canonical_check, parsed_check
from hopline.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("none", HealthCheck("none")),
        ("ICMP", HealthCheck("icmp")),
        ("tcp", HealthCheck("tcp")),
        ("tcp://:8080", HealthCheck("tcp", port=8080)),
        ("http:///", HealthCheck("http")),
        ("http://", HealthCheck("http")),
        ("http://www.example.org", HealthCheck("http", "www.example.org")),
        ("HTTP://www.Example.org:8080/a/B?c=d", HealthCheck("http", "www.Example.org", 8080, "/a/B?c=d")),
        ("https://[2001:db8::1]:8443/", HealthCheck("https", "[2001:db8::1]", 8443)),
        ("https://x?y", HealthCheck("https", "x", path="/?y")),
        ("udp://:53?send=%00%01a&expect=b%26", HealthCheck("udp", port=53, send=b"\0\1a", expect=b"b&")),
        ("udp://?send=a", HealthCheck("udp", send=b"a")),
        ("udp://:53?expect=&send=+", HealthCheck("udp", port=53, send=b"+")),
    ],
)
def test_a_check_is_taken_apart(text, check):
    assert parsed_check(text) == check
    spelled = canonical_check(text)
    assert (parsed_check(spelled), canonical_check(spelled)) == (check, spelled)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no check: use none, icmp, tcp, tcp://:PORT, http://…, https://… or udp://:PORT?send=…&expect=…"),
        ("ping", "ping is no check"),
        ("ftp://x", "ftp://x is no check"),
        ("tcp://", "tcp:// is no check: write tcp, or tcp://:PORT"),
        ("tcp://:", "nothing is not a port: give 1 to 65535, or leave the : out"),
        ("tcp://:0", "0 is not a port"),
        ("tcp://:65536", "65536 is not a port"),
        ("tcp://:99999999999", "99999999999 is not a port"),
        ("tcp://10.0.0.1:80", "tcp://10.0.0.1:80 has a host, and the backend is asked: write tcp://:PORT"),
        ("tcp://:80/x", "tcp://:80/x has a path, and the backend is asked"),
        ("tcp://:80?x", "tcp://:80?x is no check"),
        ("http://a b", "'http://a b' is no check"),
        ("http://user@x/", "http://user@x/ is no check"),
        ("http://x/#part", "http://x/#part is no check"),
        ("http://x/\r\nHost: y", "is no check"),
        ("http://ü/", "is no check"),
        ("http://x/%zz", "http://x/%zz has a % that begins no octet: write %25 for a percent sign"),
        ("http://x/" + "a" * 1100, "is no check"),
        ("udp://:53", "a check by udp sends something: write udp://:PORT?send=…&expect=…"),
        ("udp://:53?send=", "a check by udp sends something"),
        ("udp://:53?send=a&send=b", "send is given twice"),
        ("udp://:53?send=a&want=b", "want is no part of a check by udp"),
        ("udp://:53?send", "send is no part of a check by udp"),
        ("udp://:53?send=" + "a" * 513, "send has 513 octets: at most 512 are taken"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_check_says_what_would_do(text, said):
    with pytest.raises(InvalidInput) as caught:
        parsed_check(text)
    assert str(caught.value).startswith("check: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40) | st.from_regex(r"(tcp|udp|https?)://[!-~]{0,20}", fullmatch=True))
def test_no_text_makes_it_fall_over(text):
    try:
        check = parsed_check(text)
    except InvalidInput:
        pass
    else:
        assert parsed_check(canonical_check(text)) == check


def test_the_port_that_is_asked():
    # first port of the service, 0 where it has all
    for text, first, asked in (
        ("tcp", 80, 80),
        ("tcp", 0, None),
        ("tcp://:8080", 0, 8080),
        ("http://x:8080", 80, 8080),
        ("http://x", 8081, 8081),
        ("http://x", 0, 80),
        ("https://x", 0, 443),
        ("udp://?send=a", 53, 53),
        ("udp://?send=a", 0, None),
    ):
        assert parsed_check(text).port_of(first) == asked
