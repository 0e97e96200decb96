"""There is room for so much at once, and it comes free again whatever becomes of a client."""

import socket
import time

import pytest

from daemon.asking import ask, received, unix
from front_double import LEARNED, Doors
from hopline.config import Forward
from hopline.daemon.api import room

LIST = b"GET /forwards HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def doors(tmp_path):
    with Doors(tmp_path / "run") as doors:
        doors.service.learned = [LEARNED] * 50_000
        doors.service.entries = {f"10.0.{n >> 8}.{n & 255}": Forward("x", via="10.10.3.1") for n in range(20_000)}
        yield doors


def begun(doors, request):
    """A client that takes the beginning of its answer and then waits."""
    sock = unix(doors.run / "view.sock")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.sendall(request)
    assert sock.recv(16).startswith(b"HTTP/1.1 200")
    return sock


def until_answered(doors, target):
    deadline = time.monotonic() + 5
    while (status := ask(doors, "GET", target, door="view.sock")[0]) != 200:
        assert status == 503
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_so_many_long_lists_are_read_at_once(doors):
    held = [begun(doors, LIST) for _ in range(room.LISTS_MOST)]
    for target in ("/forwards", "/intent"):
        status, answer = ask(doors, "GET", target, door="view.sock")
        assert (status, answer["error"]) == (503, "busy")
    assert ask(doors, "GET", "/forwards?limit=10", door="view.sock")[0] == 200
    assert ask(doors, "GET", "/forwards")[0] == 200
    assert received_whole(held.pop())
    until_answered(doors, "/forwards")
    for sock in held:
        sock.close()
    until_answered(doors, "/intent")
    assert doors.front._view_room._lists == 0


def received_whole(sock):
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        part = sock.recv(1 << 16)
        assert part
        data = data[-10:] + part
    sock.close()
    return True


def test_a_list_that_is_not_taken_in_time_is_cut_off(doors, monkeypatch):
    monkeypatch.setattr(room, "LIST_SECONDS", 0.2)
    with begun(doors, LIST) as sock:
        time.sleep(0.4)
        assert not received(sock).endswith(b"0\r\n\r\n")
    assert doors.front._view_room._lists == 0


def test_so_much_is_held_of_what_is_sent(doors, monkeypatch):
    monkeypatch.setattr(room, "HELD_MOST", 1000)
    with unix(doors.run / "admin.sock") as sock:
        sock.sendall(b"POST /forwards HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{")
        deadline = time.monotonic() + 5
        while (answer := ask(doors, "PUT", "/intent", " " * 200))[0] != 503:
            assert time.monotonic() < deadline
        assert answer[1]["error"] == "busy"
    deadline = time.monotonic() + 5
    while ask(doors, "PUT", "/intent", {})[0] != 200:
        assert time.monotonic() < deadline
    assert doors.front._room._held == 0


def test_who_may_only_look_keeps_nobody_out_who_changes(doors):
    """Bodies announced and never sent, by the view socket: the admin socket has room of its own."""
    head = b"POST /intent/diff HTTP/1.1\r\nHost: x\r\nContent-Length: 268435456\r\n\r\n{"
    held = [unix(doors.run / "view.sock") for _ in range(2)]
    for sock in held:
        sock.sendall(head)
    deadline = time.monotonic() + 5
    while doors.front._view_room._held < 2 * 268435456:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with unix(doors.run / "view.sock") as sock:
        sock.sendall(head.replace(b"268435456", b"2\r\nConnection: close") + b"}")
        assert received(sock).startswith(b"HTTP/1.1 503")
    assert ask(doors, "PUT", "/intent?dry_run=true", {})[0] == 200
    for sock in held:
        sock.close()
