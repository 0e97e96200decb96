"""The doors that were asked for: the group that may look, the API over TCP and TLS with tokens, metrics."""

import grp
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess

import pytest

from daemon.asking import exchange, free_port, received
from daemon.certificates import self_signed
from front_double import Doors
from hopline.errors import Refused
from others import let_others_in

ADMIN, VIEW = "admin-0123456789abcdef", "view-0123456789abcdef"
ENTRY = json.dumps({"to": "10.10.3.5", "via": "10.10.3.1"})
NOBODY = 65534


@pytest.fixture(scope="module")
def token_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"admin {ADMIN} alice\nview {VIEW} screen\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def tcp(tmp_path_factory, token_file):
    port = free_port()
    with Doors(tmp_path_factory.mktemp("run"), listen=[f"127.0.0.1:{port}"], token_file=token_file) as doors:
        doors.port = port
        yield doors


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def over(port, method, target, body=None, headers=None, context=None):
    def connected():
        sock = socket.create_connection(("127.0.0.1", port), 20)
        return context.wrap_socket(sock, server_hostname="localhost") if context else sock

    return exchange(connected, method, target, body, headers)


def test_a_token_marked_admin_does_all_and_is_named(tcp):
    tcp.service.__init__()
    assert over(tcp.port, "GET", "/status", headers=bearer(ADMIN))[0] == 200
    assert over(tcp.port, "POST", "/forwards", ENTRY, bearer(ADMIN))[0] == 200
    assert tcp.service.past[-1].by == "token alice from 127.0.0.1"


def test_a_token_marked_view_shows(tcp):
    tcp.service.__init__()
    for target in ("/status", "/forwards", "/intent", "/history", "/openapi.json"):
        assert over(tcp.port, "GET", target, headers=bearer(VIEW))[0] == 200
    for method, target in (("POST", "/forwards"), ("PUT", "/intent"), ("DELETE", "/forwards?to=10.10.3.5"),
                           ("POST", "/intent/confirm"), ("POST", "/detach"), ("BREW", "/status")):  # fmt: skip
        status, _, answer = over(tcp.port, method, target, ENTRY, bearer(VIEW))
        assert (status, answer["error"]) == (403, "forbidden")
        assert "admin" in answer["hint"]
    assert tcp.service.past == []
    assert not tcp.service.detached


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer(ADMIN[:-1]),
        bearer(f"{ADMIN} {ADMIN}"),
        bearer(ADMIN.upper()),
        {"Authorization": ADMIN},
        {"Authorization": f"Basic {ADMIN}"},
        {"Authorization": "Bearer"},
        {"X-Authorization": f"Bearer {ADMIN}"},
    ],
    ids=str,
)
def test_without_a_token_nothing_is_said(tcp, headers):
    for method, target in (("GET", "/status"), ("POST", "/forwards"), ("GET", "/nowhere"), ("GET", "/openapi.json")):
        status, answered, answer = over(tcp.port, method, target, None, headers)
        assert (status, answer["error"]) == (401, "unauthorized")
        assert answered["WWW-Authenticate"] == 'Bearer realm="hopline"'
        assert ADMIN not in json.dumps(answer)


def test_two_authorizations_are_none(tcp):
    with socket.create_connection(("127.0.0.1", tcp.port), 20) as sock:
        lines = "".join(f"Authorization: Bearer {token}\r\n" for token in (ADMIN, VIEW))
        sock.sendall(f"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode())
        assert b" 401 " in received(sock)[:20]


def test_the_token_file_is_read_again(tmp_path, token_file):
    path = tmp_path / "tokens"
    shutil.copy(token_file, path)
    port = free_port()
    with Doors(tmp_path / "run", listen=[f"127.0.0.1:{port}"], token_file=path) as doors:
        path.write_text(f"admin {VIEW} new\n")
        doors.loop.call_soon_threadsafe(doors.front.reload_tokens)
        assert over(port, "POST", "/forwards", ENTRY, bearer(VIEW))[0] == 200
        assert over(port, "GET", "/status", headers=bearer(ADMIN))[0] == 401
        path.write_text("nonsense\n")
        doors.loop.call_soon_threadsafe(doors.front.reload_tokens)
        assert over(port, "GET", "/status", headers=bearer(VIEW))[0] == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_is_spoken_and_nothing_else(tmp_path, token_file):
    cert, key = self_signed(tmp_path)
    port = free_port()
    options = {"listen": [f"127.0.0.1:{port}"], "token_file": token_file, "tls_cert": cert, "tls_key": key}
    with Doors(tmp_path / "run", **options) as doors:
        context = ssl.create_default_context(cafile=str(cert))
        assert over(port, "GET", "/status", headers=bearer(VIEW), context=context)[0] == 200
        assert over(port, "POST", "/forwards", ENTRY, bearer(ADMIN), context)[0] == 200
        assert doors.service.past[-1].by == "token alice from 127.0.0.1"
        assert over(port, "GET", "/status", context=context)[0] == 401
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            over(port, "GET", "/status", headers=bearer(VIEW), context=old)
        with socket.create_connection(("127.0.0.1", port), 20) as sock:
            sock.sendall(f"GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n\r\n".encode())
            assert b"HTTP" not in received(sock)
        assert over(port, "GET", "/status", headers=bearer(VIEW), context=context)[0] == 200


def test_a_port_in_use_leaves_no_socket_behind(tmp_path, token_file):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ({"listen": [where], "token_file": token_file}, {"metrics": where}):
            with pytest.raises(Refused, match=r"use another --(listen|metrics)"), Doors(tmp_path / "run", **option):
                pass
            assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a socket to a group")
def test_the_view_group_may_look(tmp_path):
    let_others_in(tmp_path)
    group = grp.getgrgid(NOBODY).gr_name
    with Doors(tmp_path / "run", view_group=group) as doors:
        status = (doors.run / "view.sock").stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, NOBODY, 0o660)
        status = (doors.run / "admin.sock").stat()
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (os.getgid(), 0o600)
        for groups, wanted in ((f"--regid={NOBODY}", "200"), ("--regid=4242", "000")):
            ask = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(doors.run / "view.sock")]
            user = ["setpriv", "--reuid=4242", groups, "--clear-groups"]
            done = subprocess.run([*user, *ask, "http://x/status"], capture_output=True, text=True, check=False)
            assert done.stdout == wanted
