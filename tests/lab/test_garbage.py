"""Garbage into every door of the daemon: it is refused, costs nothing, and the daemon goes on."""

import contextlib
import http.client
import json
import random
import socket
import time

import pytest

import hopline
from hopline.kernel import netns
from lab.net import Daemon, Router
from lab.node import kernel_tables, shown_entries

PORTS = {"fwd": 5577, "tcp": 5578, "metrics": 5579}
TOKEN = "0123456789abcdef"
OPTIONS = {"fwd-api": "fwd", "listen": "tcp", "metrics": "metrics"}
SOCKETS = ("admin.sock", "view.sock")
DOORS = [*SOCKETS, *PORTS]
MIB = 1 << 20
DEEP = b"[" * 200_000
DEEP_OBJECT = b'{"a":' * 100_000


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    directory = tmp_path_factory.mktemp("garbage")
    (directory / "tokens").write_text(f"admin {TOKEN}\n")
    (directory / "tokens").chmod(0o600)
    ports = [f"--{name}=127.0.0.1:{PORTS[door]}" for name, door in OPTIONS.items()]
    with (
        Router() as net,
        Daemon(net.ns, directory / "d", *ports, f"--token-file={directory / 'tokens'}") as daemon,
    ):
        daemon.call("interface", "add", "left")
        daemon.call("forward", "add", "10.50.0.1", "--dev", "right", "--dst-mac", net.server.mac)
        yield daemon


@pytest.fixture(scope="module")
def before(one):
    return one.pid, shown_entries(one), kernel_tables(one)


@pytest.fixture(autouse=True)
def _goes_on_as_before(one, before):
    """After each test: the same process, the same entries in kernel and answers, no traceback, an answer at once."""
    logged = one.log.stat().st_size
    yield
    began = time.monotonic()
    pid = hopline.connect(one.instance).status().pid
    assert time.monotonic() - began < 2
    assert (pid, shown_entries(one), kernel_tables(one)) == before
    assert "Traceback" not in one.log.read_text()[logged:]


def connected(one, door: str) -> socket.socket:
    """A stream to a unix socket by name, or to a port within the daemon's namespace."""
    if door in SOCKETS:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(str(one.run_directory / door))
        return sock
    return netns.run_in(one.namespace, socket.create_connection, ("127.0.0.1", PORTS[door]), 10)


def converse(sock: socket.socket, data: bytes, shut: bool = True) -> bytes:
    """Send, and read until the other side has no more to say; a reset is an answer too."""
    with sock:
        try:
            sock.sendall(data)
            if shut:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has heard enough
        parts = []
        try:
            while part := sock.recv(1 << 16):
                parts.append(part)
        except OSError:
            pass
        return b"".join(parts)


def request(one, door: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("localhost", timeout=15)
    connection.sock = connected(one, door)
    try:
        connection.request(method, path, body=body or None, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("door", DOORS)
def test_random_octets(one, door):
    dice = random.Random(11)
    for size in (1, 7, 64, 1000, 70_000):
        answer = converse(connected(one, door), dice.randbytes(size))
        assert b" 2" not in answer[:13] or door == "fwd", answer[:80]  # the seed's API says 200 to all it can parse
        assert b"HTTP/1.1 5" not in answer
    for data in (b"\r\n" * 1000, b"\0" * 5000, b"GET", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"):
        assert b"HTTP/1.1 5" not in converse(connected(one, door), data)


@pytest.mark.parametrize("door", DOORS)
def test_half_requests_and_silent_clients(one, door):
    halves = [
        b"POST / HTTP/1.1\r\n",
        b"POST /forwards HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"POST /forwards HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ]
    for half in halves:
        assert b"HTTP/1.1 5" not in converse(connected(one, door), half)
    held = [connected(one, door) for _ in range(100)]
    try:
        for n, sock in enumerate(held):
            sock.sendall(halves[n % 4])
        began = time.monotonic()
        status, _ = request(one, "view.sock", "GET", "/status")
        assert status == 200
        assert time.monotonic() - began < 2, "silent clients hold others up"
    finally:
        for sock in held:
            sock.close()


@pytest.mark.parametrize(
    "body",
    [DEEP, DEEP_OBJECT, b"x" * 10 * MIB, b'"' + b"a" * 10 * MIB + b'"', b"\xff\xfe{}", b""],
    ids=["deep list", "deep object", "10 MiB", "10 MiB of JSON", "no UTF-8", "empty"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/forwards"), ("PUT", "/forwards"), ("POST", "/interfaces"), ("PUT", "/intent"), ("POST", "/intent/diff"),
     ("POST", "/forwards/load")],
)  # fmt: skip
def test_a_body_that_is_nonsense(one, method, path, body):
    status, answer = request(one, "admin.sock", method, path, body)
    assert (status, answer["error"]) == (400, "invalid_input"), answer
    assert len(answer["detail"]) < 300


@pytest.mark.parametrize(
    "body",
    [{}, [], [[]], {"to": 5}, {"to": None}, {"to": "10.8.0.1", "dev": 3}, {"to": "10.8.0.1", "colour": "red"},
     [{"to": "10.8.0.1", "dev": "right", "dst_mac": "02:00:00:00:02:02"}, {"to": "10.8.0.300"}],
     [{"to": "10.8.0.1", "dev": "right", "dst_mac": "02:00:00:00:02:02"}, {"to": "10.8.0.2", "dev": "nosuch",
       "dst_mac": "02:00:00:00:02:02"}],
     [{"to": "10.8.0.1", "dev": "right", "dst_mac": "02:00:00:00:02:02"}] * 2,
     "forward", 7, None, True],
    ids=lambda body: json.dumps(body)[:40],
)  # fmt: skip
def test_a_body_of_the_wrong_shape_enters_nothing(one, body):
    status, answer = request(one, "admin.sock", "POST", "/forwards", json.dumps(body).encode())
    assert (status, answer["error"]) == (400, "invalid_input"), answer


def test_one_entry_that_exists_refuses_the_whole_list(one):
    hop = {"dev": "right", "dst_mac": "02:00:00:00:02:02"}
    body = json.dumps([{"to": "10.8.0.1", **hop}, {"to": "10.50.0.1", **hop}]).encode()
    assert request(one, "admin.sock", "POST", "/forwards", body)[0] == 409
    assert request(one, "admin.sock", "DELETE", "/forwards?to=10.50.0.1&to=10.8.0.1")[0] == 404


def test_a_body_beyond_the_limit_is_cut_off(one):
    head = b"POST /forwards HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (80 * MIB)
    with connected(one, "admin.sock") as sock:
        with contextlib.suppress(OSError):  # it has heard enough
            sock.sendall(head + b"[" + b" " * (66 * MIB))
        assert b" 400 " in sock.recv(1000)[:20]


@pytest.mark.parametrize(
    "path",
    ["/", "/nosuch", "/forwards/", "//forwards", "/forwards/get", "/interfaces/%00", "/forwards?colour=red",
     "/forwards?limit=-1", "/forwards?limit=x", "/../../etc/passwd", "/forwards/get?address=%ff",
     "/forwards?to=" + "1" * 5000, "/" + "a" * 50_000],
)  # fmt: skip
@pytest.mark.parametrize("door", SOCKETS)
def test_a_path_or_question_that_is_nonsense(one, door, path):
    status, answer = request(one, door, "GET", path)
    assert status in (400, 404, 405, 414, 431), (status, answer)
    assert len(json.dumps(answer)) < 600, answer


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/forwards", b'{"to":"10.8.0.1","dev":"right","dst_mac":"02:00:00:00:02:02"}'),
     ("PUT", "/forwards", b'{"to":"10.50.0.1","dev":"right","dst_mac":"02:00:00:00:02:03"}'),
     ("DELETE", "/forwards?to=10.50.0.1", b""), ("POST", "/forwards/flush", b'{"origin":"learned"}'),
     ("POST", "/interfaces", b'{"name":"right"}'), ("PATCH", "/interfaces/left", b'{"mode":"generic"}'),
     ("DELETE", "/interfaces/left", b""), ("POST", "/detach", b""), ("TRACE", "/status", b""),
     ("PUT", "/intent", b"{}"), ("PUT", "/intent?dry_run=true", b"{}"), ("POST", "/intent/confirm", b""),
     ("POST", "/history/0/rollback", b""),
     ("POST", "/forwards/load", b"to,via\n10.8.0.1,10.2.0.2\n"), ("POST", "/intent/diff/", b"{}")],
)  # fmt: skip
def test_the_view_socket_refuses_every_write(one, method, path, body):
    status, answer = request(one, "view.sock", method, path, body)
    assert (status, answer["error"]) == (403, "forbidden"), answer


def fwd(one, body: bytes) -> dict:
    status, answer = request(one, "fwd", "POST", "/", body)
    assert status == 200
    assert answer["code"] == 500, answer
    assert len(answer["errors"]) == 1
    return answer


UPDATE = {"action": "UpdateForward", "traceId": "t", "ip": "10.8.0.1", "iface": 3, "srcMac": "02:00:00:00:02:01",
          "dstMac": "02:00:00:00:02:02"}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"x" * (MIB + 1), 1000), (b"y" * (10 * MIB), 1000), (b"", 1100), (b"x" * MIB, 1100), (DEEP, 1100),
     (DEEP_OBJECT, 1100), (b"\xff", 1100), (b"[]", 1100), (b"7", 1100), (b'{"action":"Query', 1100),
     (b'{"action":NaN}', 1100), (b'{"a":1,"a":2}', 1100), (b'{"a":' + b"9" * 5000 + b"}", 1100), (b"{}", 1101),
     (b'{"action":"Destroy"}', 1101), (b'{"action":["QueryForward"]}', 1101)],
    ids=lambda value: f"{len(value)} octets" if isinstance(value, bytes) else str(value),
)  # fmt: skip
def test_the_seeds_api_names_what_is_wrong(one, body, code):
    error = fwd(one, body)["errors"][0]
    assert error["code"] == code, error
    assert "\n" not in error["msg"]
    assert len(error["msg"]) < 300


@pytest.mark.parametrize(
    "wrong",
    [{"ip": "10.8.0.300"}, {"ip": "fd00::1"}, {"ip": "10.8.0.0/24"}, {"ip": 7}, {"ip": None}, {"iface": 9999},
     {"iface": 0}, {"iface": -1}, {"iface": 1}, {"iface": "3"}, {"iface": True}, {"iface": 1 << 70}, {"iface": 3.5},
     {"srcMac": "x"}, {"dstMac": "ff:ff:ff:ff:ff:ff"}, {"dstMac": "01:00:5e:00:00:01"}, {"ip": "224.0.0.1"}],
    ids=str,
)  # fmt: skip
def test_the_seeds_api_enters_nothing_wrong(one, wrong):
    answer = fwd(one, json.dumps({**UPDATE, **wrong}).encode())
    assert answer["traceId"] == "t"
    assert answer["errors"][0]["code"] == 1200, answer


@pytest.mark.parametrize("field", ["ip", "iface", "srcMac", "dstMac"])
def test_the_seeds_api_misses_no_field(one, field):
    answer = fwd(one, json.dumps({name: value for name, value in UPDATE.items() if name != field}).encode())
    assert answer["errors"][0]["code"] == 1200
    assert field in answer["errors"][0]["msg"]
