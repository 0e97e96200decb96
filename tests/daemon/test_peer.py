"""Who asks, as the kernel and /proc say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.asking import Connection, ask, unix
from hopline.daemon.peer import Process, described
from others import let_others_in

PUT = {"interface": [{"name": "enp0s3"}]}


def login():
    file = Path("/proc/self/loginuid")
    text = file.read_text() if file.exists() else ""
    return int(text) if text.isdigit() and int(text) not in (0xFFFFFFFF, os.getuid()) else None


def test_a_change_is_by_the_process_that_connected(doors):
    assert ask(doors, "POST", "/interfaces", {"name": "enp0s3"})[0] == 200
    by = doors.service.past[-1].by
    comm = Path("/proc/self/comm").read_text().strip()
    name = "root (uid 0)" if os.getuid() == 0 else f"(uid {os.getuid()})"
    assert name in by
    assert by.endswith(f", process {os.getpid()} ({comm})")
    assert ("logged in" in by) == (login() is not None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_two_at_once_are_told_apart(doors):
    os.chmod(doors.run / "admin.sock", 0o666)
    let_others_in(doors.run)
    code = """
import http.client, json, os, socket, sys
sock = socket.socket(socket.AF_UNIX)
os.setgid(65534); os.setuid(65534)
sock.connect(sys.argv[1])
print(os.getpid(), flush=True)
sys.stdin.readline()
connection = http.client.HTTPConnection("x")
connection.sock = sock
connection.request("POST", "/interfaces", json.dumps({"name": sys.argv[2]}))
print(connection.getresponse().status)
"""
    run = [sys.executable, "-c", code, str(doors.run / "admin.sock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    clients = {dev: subprocess.Popen([*run, dev], **pipes) for dev in ("enp0s3", "enp0s9")}
    pids = {dev: int(client.stdout.readline()) for dev, client in clients.items()}
    for client in clients.values():
        assert client.communicate("\n", timeout=20)[0].strip() == "200"
    by = {past.what.removeprefix("interface add "): past.by for past in doors.service.past}
    for dev, pid in pids.items():
        assert "(uid 65534)" in by[dev]
        assert f"process {pid} " in by[dev]


def test_a_process_that_has_ended_has_no_name():
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    assert described(Process(int(done.stdout), 4_000_000_000)) == f"uid 4000000000, process {int(done.stdout)}"
    assert described(Process(0, 0)).endswith("process of another pid namespace")


def test_a_name_of_a_process_cannot_break_the_line(doors):
    code = f"""
import socket, sys
open("/proc/self/comm", "w").write("a\\nb c")
sock = socket.socket(socket.AF_UNIX)
sock.connect({str(doors.run / "admin.sock")!r})
body = {json.dumps(PUT["interface"][0])!r}
sock.sendall(f"POST /interfaces HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {{len(body)}}\\r\\n\\r\\n{{body}}".encode())
assert b" 200 " in sock.recv(100)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
    assert doors.service.past[-1].by.endswith(r"('a\nb c')")


def test_one_connection_stays_who_it_was(doors):
    connection = Connection(lambda: unix(doors.run / "admin.sock"))
    for dev in ("enp0s3", "enp0s9"):
        connection.request("POST", "/interfaces", json.dumps({"name": dev}))
        response = connection.getresponse()
        assert (response.status, response.read()[:1]) == (200, b"{")
    connection.close()
    assert len({past.by for past in doors.service.past}) == 1
    assert len(doors.service.past) == 2
