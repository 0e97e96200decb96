"""daemon/door.py and fwd_http.py: whatever octets come over a connection, what is not asked for is not done.

The first octet says which door the rest goes to: the tool API's, or the seed's. An independent reader of HTTP
(fuzz/http1.py) says which requests are in the octets. Plain ones are all answered, in order; no other is acted upon,
whatever a body holds and however its length is told; every answer is well formed, and none says 5xx.
"""

import json
import logging
import random
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import hopline
from daemon.asking import free_port, received, unix
from front_double import NEIGHBOUR_MAC, OWN_MAC, Doors
from fuzz import http1
from fuzz.fuzzing import Target, mutated, search, vary
from hopline.kernel import netns
from lab.net import Daemon, Router
from lab.node import kernel_entries, store_entries

HOST = b"Host: x\r\n"


def request(line: str, body: bytes = b"", *headers: str, length: bool = True) -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: x", *headers]
    lines += [f"Content-Length: {len(body)}"] if body and length else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(line: str, *pieces: bytes, more: str = "") -> bytes:
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), more.encode(), piece) for piece in pieces) + b"0\r\n\r\n"
    return request(line, body, "Transfer-Encoding: chunked", length=False)


def entry(number: int) -> bytes:
    return b'{"to":"10.66.0.%d","via":"10.2.0.2"}' % number


def update(number: int) -> bytes:
    macs = {"srcMac": OWN_MAC, "dstMac": NEIGHBOUR_MAC}
    return json.dumps({"action": "UpdateForward", "ip": f"10.66.0.{number}", "iface": 2, **macs}).encode()


ADD, GET = request("POST /forwards", entry(1)), request("GET /status")
HIDDEN = request("POST /forwards", entry(66))
API = (
    GET + GET,
    ADD + GET,
    request("POST /forwards", entry(2), "Connection: close") + GET,
    chunked("POST /forwards", entry(3)[:5], entry(3)[5:]) + GET,
    chunked("POST /forwards", entry(4), more=";a=b"),
    request("POST /forwards", b"0\r\n\r\n" + HIDDEN, "Transfer-Encoding: chunked"),
    request("POST /forwards", HIDDEN, "Content-Length: 4") + GET,
    request("GET /status", HIDDEN, "Content-Length: 0", length=False),
    request("POST /forwards", b"5e\r\n" + HIDDEN + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    request("POST /forwards", entry(5), "Transfer-Encoding: identity"),
    request("POST /forwards", entry(6), "Transfer-Encoding : chunked"),
    request("HEAD /status") + request("POST /forwards", entry(7), "Expect: 100-continue"),
    b"GET /status HTTP/1.0\r\n\r\n" + HIDDEN,
    b"GET /status HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
)
SEEDS_API = (
    request("POST /", update(1)) + request("POST /", b'{"action":"QueryForward"}'),
    request("POST /", update(2), "Connection: close") + request("POST /", update(66)),
    chunked("POST /", update(3)[:9], update(3)[9:]),
    request("POST /", b"0\r\n\r\n" + request("POST /", update(66)), "Transfer-Encoding: chunked"),
    request("POST /?a=b", update(4), "Expect: 100-continue"),
    request("POST /", update(5), "Origin: http://x"),
    request("GET /") + request("POST /", update(6)),
    request("HEAD /") + request("POST /", update(7)),
)
WORDS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\0", b"\x0b", b"\xff", b":", b",", b";", b"0\r\n\r\n", b"-",
    b"+", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 18446744073709551617\r\n", b"5, 5",
    b"5,6", b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:\tCHUNKED\r\n",
    b"Transfer-Encoding: x, chunked\r\n", b"0x5", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"h2c", b"Expect: 100-continue\r\n", b" HTTP/1.0\r\n",
    b" HTTP/1.1\r\n", b" HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\n", HOST, b"ffffffffffffffff\r\n",
    b"00000000000000000005\r\n", b"5;x\r\n", b"GET ", b"POST ", b"HEAD ", b"http://x/status", HIDDEN, GET,
    request("POST /", update(66)), b"10.66.0.66", b"X" * 5000, b"X: y\r\n" * 200, b"\r\n folded",
)  # fmt: skip


class Served:
    """Both doors before a double, and what went wrong behind them; ended by the end of the process at the latest."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="hl-fuzz-")
        self.doors = Doors(Path(self._directory), fwd_api=f"127.0.0.1:{free_port()}").__enter__()
        self.faults: list[str] = []
        self.doors.loop.set_exception_handler(lambda _, context: self.faults.append(str(context)))
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.faults.append(record.getMessage())
        for name in ("hopline", "uvicorn", "asyncio"):
            logging.getLogger(name).addHandler(handler)

    def close(self) -> None:
        self.doors.__exit__()
        shutil.rmtree(self._directory)

    def connected(self, kind: int) -> socket.socket:
        if kind:
            return socket.create_connection(self.doors.front.fwd_address, 20)
        return unix(self.doors.run / "admin.sock")


_served: list[Served] = []
_lock = threading.Lock()


def served() -> Served:
    """The doors, opened when they are first asked for."""
    with _lock:
        if not _served:
            _served.append(Served())
        return _served[0]


def check(data: bytes) -> None:
    """The whole oracle."""
    if not data:
        return
    kind, data = data[0] & 1, data[1:]
    behind = served()
    behind.doors.service.__init__()
    behind.faults.clear()
    check_answers(kind, data, exchanged(behind.connected, kind, data))
    assert behind.faults == []
    check_done(behind.doors.service.entries, carried(data))


def carried(data: bytes) -> list[bytes]:
    """The bodies of the requests that may enter something."""
    return [each.body for each in http1.requests(data)[0] if each.method in (b"POST", b"PUT")]


def check_done(entries: Iterable[str], bodies: list[bytes]) -> None:
    """Each entry was asked for in a body, and not by what only looks like a request within one."""
    for to in entries:
        assert any(re.search(rb'"(to|ip)" ?: ?"%s"' % re.escape(to.encode()), body) for body in bodies), to


def exchanged(connected: Callable[[int], socket.socket], kind: int, data: bytes) -> bytes:
    """Say all, and hear all."""
    with connected(kind) as sock:
        sock.settimeout(20)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has heard enough
        return received(sock)


def check_answers(kind: int, data: bytes, said: bytes, slow: bool = False) -> None:
    """As many as there are requests, at most one more for what is none, each of the door's form.

    Of a daemon that is `slow`, so that it hears that its client has said all before it answers, one answer is enough.
    """
    asked, whole = http1.requests(data)
    found = http1.answers(said, asked)
    assert len(found) <= len(asked) + (not whole)
    plain = next((number for number, each in enumerate(asked) if not each.plain), len(asked))
    assert len(found) >= (min(plain, 1) if slow else plain), f"{len(found)} answers to {plain} plain requests"
    for number, (status, headers, body) in enumerate(found):
        assert headers[b"content-type"] == b"application/json"
        if not body and (number == len(asked) or asked[number].method == b"HEAD"):
            continue
        answer = json.loads(body)
        if kind:
            assert status == 200
            assert answer["code"] in (200, 500)
        else:
            assert status < 500, answer
            assert status == 200 or answer["error"], answer
    # nothing comes after what may be read in two ways
    both = next((number for number, each in enumerate(asked) if each.last), len(asked))
    assert len(found) <= both + 1


TARGET = Target(
    check,
    [b"\0" + each for each in API] + [b"\1" + each for each in SEEDS_API],
    WORDS,
    modules=("hopline.daemon.door", "hopline.daemon.fwd_http", "hopline.daemon.fwd_api", "h11", "uvicorn.protocols"),
    seconds=5.0,
)


@pytest.fixture(scope="module", autouse=True)
def _closed():
    yield
    while _served:
        _served.pop().close()


def test_mutations():
    vary(TARGET, 300)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search(tmp_path):
    search(TARGET, "fuzz.test_door", tmp_path, runs=50_000)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_before_a_real_daemon(needs_bpf, tmp_path):
    port = 5577
    dice, bodies = random.Random(3), []
    with Router() as net, Daemon(net.ns, tmp_path / "d", f"--fwd-api=127.0.0.1:{port}") as daemon:
        net.pin_neighbours()
        pid = daemon.pid

        def connected(kind: int) -> socket.socket:
            if not kind:
                return unix(daemon.run_directory / "admin.sock")
            return netns.run_in(net.ns, socket.create_connection, ("127.0.0.1", port), 20)

        for data in (*TARGET.seeds, *(mutated(dice, TARGET) for _ in range(5000))):
            check_answers(data[0] & 1, data[1:], exchanged(connected, data[0] & 1, data[1:]), slow=True)
            bodies += carried(data[1:])
        entered = store_entries(daemon)
        assert entered, "nothing that was right was done"
        check_done(entered, bodies)
        assert kernel_entries(daemon) == entered
        assert hopline.connect(daemon.instance).status().pid == pid
        assert "Traceback" not in daemon.log.read_text()
