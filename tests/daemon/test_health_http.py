import pytest

from hopline.daemon.health.http import LONGEST_HEAD, Head, host_header, request


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.0 503 Service Unavailable\r\n", 503),
        (b"HTTP/1.1 204\r\n", 204),
        (b"HTTP/1.1 404\n", 404),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.1 101 Switching Protocols\r\n", 101),
    ],
)
def test_a_status_is_read_however_it_is_cut(octets, status):
    for size in (1, 3, len(octets)):
        head = Head()
        for at in range(0, len(octets), size):
            assert not head.broken
            head.feed(octets[at : at + size])
        assert (head.status, head.broken) == (status, False)


@pytest.mark.parametrize(
    "octets",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail",
        b"HTTP/2 200\r\n",
        b"HTTP/1.1 999 No\r\n",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1  200 OK\r\n",
        b"\r\n",
        b"\x15\x03\x01\x00\x02",
        b"HTTP/" + b"x" * LONGEST_HEAD,
        b"HTTP/1.1 100 Continue\r\n" + b"x" * LONGEST_HEAD,
    ],
)
def test_what_is_no_status_is_none(octets):
    head = Head()
    head.feed(octets)
    assert head.status is None
    # what may still become one is waited for
    assert head.broken == (octets != b"HTTP/1.1 20")


def test_the_request_names_host_and_port_as_browsers_do():
    assert request("x", 80, "/a?b", 80).startswith(b"GET /a?b HTTP/1.1\r\nHost: x\r\n")
    assert b"Host: x:8080\r\n" in request("x", 8080, "/", 80)
    assert b"Host: [::1]:8443\r\n" in request("::1", 8443, "/", 443)
    assert host_header("[::1]") == "[::1]"
    assert request("x", 80, "/", 80).endswith(b"\r\n\r\n")
