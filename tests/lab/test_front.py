"""The doors of a real daemon beyond its unix sockets: TLS across a network, tokens, metrics, and who asked."""

import contextlib
import grp
import os
import shutil
import signal
import socket
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon.asking import exchange, unix
from daemon.certificates import self_signed
from hopline.kernel import netns
from lab.net import Daemon, Router
from lab.node import assert_refused, hopline, kernel_entries, store_entries
from lab.traffic import wait_for

ADMIN, VIEW = "admin-0123456789abcdef", "view-0123456789abcdef"
PORT, METRICS = 7443, 9143
NOBODY = 65534

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture(scope="module")
def net():
    with Router() as router:
        router.pin_neighbours()
        yield router


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    tokens = directory / "tokens"
    tokens.write_text(f"admin {ADMIN} alice\nview {VIEW}\n")
    tokens.chmod(0o600)
    cert, key = self_signed(directory)
    return {"token-file": tokens, "tls-cert": cert, "tls-key": key}


@pytest.fixture(scope="module")
def one(net, files, tmp_path_factory):
    given = {**files, "listen": f"{net.left.ip4}:{PORT}", "metrics": f"{net.left.ip4}:{METRICS}",
             "view-group": grp.getgrgid(NOBODY).gr_name}  # fmt: skip
    options = [f"--{name}={value}" for name, value in given.items()]
    with Daemon(net.ns, tmp_path_factory.mktemp("front") / "d", *options) as daemon:
        yield daemon
        assert "Traceback" not in daemon.log.read_text(), daemon.log.read_text()


def ask(one, method, target, body=None, door="admin.sock"):
    """The status of the answer to one request to a unix socket."""
    return exchange(lambda: unix(one.run_directory / door), method, target, body)[0]


@pytest.fixture
def over_tls(net, one, files):
    """A function that asks from the client's host, over the network."""
    context = ssl.create_default_context(cafile=str(files["tls-cert"]))

    def connected():
        sock = netns.run_in(net.client.ns, socket.create_connection, (net.left.ip4, PORT), 20)
        return context.wrap_socket(sock, server_hostname="localhost")

    def ask(method, target, body=None, token=None):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        status, _, answer = exchange(connected, method, target, body, headers)
        return status, answer

    return ask


def test_another_host_acts_with_a_token_and_is_named(net, one, over_tls):
    assert over_tls("GET", "/status")[0] == 401
    assert over_tls("GET", "/status", token=VIEW)[1]["instance"] == one.instance
    entry = '{"to": "10.50.0.1", "via": "10.2.0.2"}'
    assert over_tls("POST", "/forwards", entry, VIEW)[0] == 403
    assert store_entries(one) == set()
    assert over_tls("POST", "/forwards", entry, ADMIN)[0] == 200
    assert store_entries(one) == {"10.50.0.1"}
    one.call("forward", "del", "10.50.0.1")
    rows = exchange(lambda: unix(one.run_directory / "view.sock"), "GET", "/history")[2]
    assert rows[1]["by"] == f"token alice from {net.client.ip4}"
    assert rows[0]["by"].startswith("root (uid 0)")
    assert rows[0]["by"].endswith("(hopline)")


def test_tokens_are_read_again_on_sighup(one, files, over_tls):
    files["token-file"].write_text(f"admin {ADMIN} alice\nview {VIEW[::-1]}\n")
    os.kill(one.pid, signal.SIGHUP)
    wait_for(lambda: over_tls("GET", "/status", token=VIEW)[0] == 401)
    assert over_tls("GET", "/status", token=VIEW[::-1])[0] == 200
    files["token-file"].write_text("nonsense\n")
    os.kill(one.pid, signal.SIGHUP)
    wait_for(lambda: "the tokens known before stay" in one.log.read_text())
    assert over_tls("GET", "/status", token=VIEW[::-1])[0] == 200


def test_the_view_socket_is_the_group_s(one):
    status = (one.run_directory / "view.sock").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, NOBODY, 0o660)


def test_two_hundred_requests_at_once_are_all_done(one, over_tls):
    def request(n):
        kinds = (
            lambda: ask(one, "POST", "/forwards", f'{{"to": "10.7.0.{n}", "via": "10.2.0.2"}}'),
            lambda: ask(one, "GET", "/status", door="view.sock"),
            lambda: ask(one, "POST", "/intent/diff", '{"forward": []}', door="view.sock"),
            lambda: over_tls("POST", "/forwards", f'{{"to": "10.7.0.{n}", "via": "10.2.0.2"}}', ADMIN)[0],
        )
        return kinds[n % 4]()

    with ThreadPoolExecutor(200) as pool:
        assert set(pool.map(request, range(200))) == {200}
    entered = {f"10.7.0.{n}" for n in range(200) if n % 4 in (0, 3)}
    assert store_entries(one) == kernel_entries(one) == entered
    assert ask(one, "PUT", "/intent", "{}") == 200
    assert store_entries(one) == kernel_entries(one) == set()


def test_clients_that_hold_on_hold_up_nobody(one):
    held = [unix(one.run_directory / "view.sock") for _ in range(600)]
    try:
        for n, sock in enumerate(held):
            with contextlib.suppress(OSError):  # those that are too many are told so and closed
                sock.sendall(
                    (b"", b"GET /st", b"POST /intent/diff HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")[n % 3]
                )
        wait_for(lambda: ask(one, "GET", "/status", door="view.sock") == 503)
        assert ask(one, "GET", "/status") == 200
        assert held[520].recv(100).startswith(b"HTTP/1.1 503 ")
    finally:
        for sock in held:
            sock.close()
    wait_for(lambda: ask(one, "GET", "/status", door="view.sock") == 200)


def test_metrics_are_for_all_who_ask(net, one):
    def asked(target):
        sock = netns.run_in(net.client.ns, socket.create_connection, (net.left.ip4, METRICS), 20)
        with sock:
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: sock.recv(65536), b""))

    assert b"\nhopline_" in asked("/metrics")
    assert asked("/status").startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen=0.0.0.0:7000"], ["--token-file"]),
        (["--listen=0.0.0.0:7000", "--token-file=TOKENS"], ["0.0.0.0:7000", "--tls-cert"]),
        (["--listen=127.0.0.1:7000", "--token-file=OPEN"], ["chmod 600"]),
        (["--listen=127.0.0.1:7000", "--token-file=TOKENS", "--tls-cert=CERT", "--tls-key=CERT"], ["no private key"]),
        (["--view-group=nosuchgroup"], ["nosuchgroup"]),
        (["--check-every=0"], ["check-every"]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_touched(net, files, tmp_path, options, words):
    (tmp_path / "tokens").write_text(f"admin {ADMIN}\n")
    (tmp_path / "tokens").chmod(0o600)
    (tmp_path / "open").write_text(f"admin {ADMIN}\n")
    (tmp_path / "open").chmod(0o666)
    places = {"TOKENS": tmp_path / "tokens", "OPEN": tmp_path / "open", "CERT": files["tls-cert"]}
    for word, path in places.items():
        options = [option.replace(word, str(path)) for option in options]
    run, state = tmp_path / "run", tmp_path / "state"
    result = hopline(net.ns, "serve", "--instance", "t-refused", "--run", str(run), "--state", str(state), *options)
    assert_refused(result, 1, *words)
    assert not run.exists()
    assert not state.exists()
