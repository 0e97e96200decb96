"""Each kind of check against servers on the loopback device."""

import asyncio
import contextlib
import errno
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from daemon.certificates import self_signed
from hopline.daemon.health.echo import Echo
from hopline.daemon.health.outcome import Outcome, bad, good, unknown
from hopline.daemon.health.probe import Prober
from hopline.daemon.health.sockets import open_here
from hopline.daemon.health.targets import Request, Target
from hopline.errors import Refused

SECONDS = 0.3
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


class Server:
    """Answers each connection on 127.0.0.1 with `answer` once something came; None: never. `ends` is how each ended."""

    def __init__(self, answer: bytes | None = b"", tls: ssl.SSLContext | None = None, ends: bool = True) -> None:
        self.answer, self.tls, self.own_end = answer, tls, ends
        self.ends: list[object] = []
        self.requests: list[bytes] = []

    def __enter__(self) -> "Server":
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(5)

    def serve(self) -> None:
        while True:
            try:
                taken, _ = self.sock.accept()
            except OSError:
                return
            taken.settimeout(2)
            try:
                with self.tls.wrap_socket(taken, server_side=True) if self.tls else taken as peer:
                    if octets := peer.recv(4096):
                        self.requests.append(octets)
                        if self.answer is not None:
                            peer.sendall(self.answer)
                            if not self.answer:
                                continue
                            if self.own_end:
                                peer.shutdown(socket.SHUT_WR)
                        octets = peer.recv(4096)
                    self.ends.append(octets)
            except OSError as error:
                self.ends.append(type(error).__name__)


def request(kind: str, port: int = 0, **fields) -> Request:
    given = {"host": "x", "path": "/", "statuses": ((200, 399),), "send": b"", "expect": b"", "interval": SECONDS}
    return Request(kind=kind, port=port, rise=1, fall=1, **{**given, **fields})


def probed(asked: Request, address: str = "127.0.0.1", opener=open_here) -> Outcome:
    async def body():
        return await Prober(opener, Echo()).probe(Target(address, asked))

    return asyncio.run(asyncio.wait_for(body(), 10))


def free_port(kind=socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_tcp():
    with Server() as server:
        assert probed(request("tcp", server.port)) == good("connected")
        time.sleep(0.1)
    assert server.ends == [b""], "the server reads an end and no error"
    assert probed(request("tcp", free_port())) == bad("connection refused")


def test_a_connection_leaves_nothing_behind():
    # one that takes no connection from its queue, so that it ends none either: then the ending would be on that side
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        port = server.getsockname()[1]
        for _ in range(20):
            assert probed(request("tcp", port)).good
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        # local address, remote address, state: none to the server, in whatever state
        assert [row for row in rows if row[2] == f"0100007F:{port:04X}"] == []


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (OK, good("status 200")),
        (b"HTTP/1.1 302 Found\r\n\r\n", good("status 302")),
        (b"HTTP/1.1 503 No\r\n\r\n", bad("status 503, 200-399 expected")),
        (b"SSH-2.0-OpenSSH_9.2\r\n", bad("the answer is no HTTP")),
        (b"", bad("closed without an answer")),
        (None, bad("no answer in 0.3 s")),
        (b"HTTP/1.1 20", bad("closed without an answer")),
    ],
)
def test_http(answer, outcome):
    with Server(answer) as server:
        assert probed(request("http", server.port, host="www.example.org", path="/health?a")) == outcome
    assert server.requests[0].startswith(f"GET /health?a HTTP/1.1\r\nHost: www.example.org:{server.port}\r\n".encode())


def test_expected_statuses_are_named():
    with Server(OK) as server:
        assert probed(request("http", server.port, statuses=((204, 204), (301, 302)))) == bad(
            "status 200, 204,301-302 expected"
        )


def test_https_takes_any_certificate(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed(tmp_path))
    for host in ("www.example.org", "127.0.0.1", "[::1]"):
        with Server(OK, context) as server:
            assert probed(request("https", server.port, host=host, interval=2.0)) == good("status 200")
    with Server(OK) as server:
        assert probed(request("https", server.port)) == bad("tls: wrong version number")
    with Server(b"") as server:
        assert probed(request("https", server.port)) == bad("tls: closed without an answer")
    assert probed(request("https", free_port())) == bad("connection refused")


@contextlib.contextmanager
def udp_server(answer: bytes | None):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(2)

        def serve():
            octets, address = sock.recvfrom(64)
            if answer is not None:
                sock.sendto(answer + octets, address)

        thread = threading.Thread(target=serve)
        thread.start()
        yield sock.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("answer", "expect", "outcome"),
    [
        (b"pong ", b"", good("answered")),
        (b"pong ", b"ng pi", good("answered")),
        (b"\0\xffx", b"pong", bad(r"answered '\x00\xffxping', 'pong' expected")),
        (None, b"", bad("no answer in 0.3 s")),
    ],
)
def test_udp(answer, expect, outcome):
    with udp_server(answer) as port:
        assert probed(request("udp", port, send=b"ping", expect=expect)) == outcome


def test_udp_without_a_server():
    assert probed(request("udp", free_port(socket.SOCK_DGRAM), send=b"ping")) == bad("port unreachable")


def raising(error: Exception):
    def opener(target, kind):
        raise error

    return opener


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OSError(errno.EMFILE, ""), unknown("too many open files")),
        (OSError(errno.EADDRNOTAVAIL, ""), unknown("cannot assign requested address")),
        (OSError(errno.EPERM, ""), unknown("operation not permitted")),
        (OSError(errno.ENETUNREACH, ""), bad("network unreachable")),
        (OSError(errno.EHOSTUNREACH, ""), bad("no route to host")),
        (OSError(errno.ETIMEDOUT, ""), bad("no answer in 0.3 s")),
        (Refused("the tunnel is not set up yet"), unknown("the tunnel is not set up yet")),
    ],
)
def test_what_this_node_lacks_says_nothing_about_the_backend(error, outcome):
    for kind in ("tcp", "udp", "https"):
        assert probed(request(kind, 80), opener=raising(error)) == outcome


def test_a_time_out_that_is_noticed_late_says_nothing_about_the_backend():
    async def body():
        asyncio.get_running_loop().call_later(0.1, time.sleep, 0.8)
        return await Prober(open_here, Echo()).probe(Target("127.0.0.1", request("http", server.port)))

    with Server(None) as server:
        outcome = asyncio.run(body())
    assert outcome.good is None
    assert outcome.text.startswith("not checked: this node was busy for 0.")


def test_an_answer_just_in_time_is_one_though_the_server_never_ends_it():
    with Server(b"HTTP/1.1 200 OK\r\n\r\n", ends=False) as server:
        assert probed(request("http", server.port, interval=0.08)) == good("status 200")


def test_a_host_that_tls_cannot_take():
    with Server(OK) as server:
        outcome = probed(request("https", server.port, host=".example.org"))
    assert outcome.good is None
    assert outcome.text.startswith("not checked: host .example.org: ")


def test_without_a_socket_for_icmp_nothing_is_known():
    outcome = probed(request("icmp"))
    assert outcome.good is None
    assert outcome.text.startswith("not checked: no socket for ICMP (")
