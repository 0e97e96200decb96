"""The API over its two unix sockets: what it answers, what it refuses, and how its sockets come and go."""

import json
import os
import socket
import stat

import msgspec
import pytest

from daemon.asking import ask
from front_double import KERNEL_FAULT, LEARNED, NEIGHBOUR_MAC, Doors
from hopline.config import Forward
from hopline.daemon.api import body
from hopline.errors import InvalidInput, Refused

DIRECT = {"to": "10.10.3.5", "dev": "enp0s9", "dst_mac": NEIGHBOUR_MAC}


def test_status_names_what_an_operator_needs(doors):
    status, body = ask(doors, "GET", "/status")
    assert status == 200
    assert body["pid"] == 4711
    assert body["entries"] == {"operator": 0, "learned": 1}
    assert body["cache"]["size_ipv4"] == 131072


def test_an_interface_comes_changes_and_goes(doors):
    status, body = ask(doors, "POST", "/interfaces", {"name": "enp0s3"})
    assert (status, body["interface"]) == (200, {"name": "enp0s3", "mode": "auto", "bypass_policy": False})
    assert body["state"]["mode"] == "native"
    assert body["warnings"] == ["peer without GRO: packets may be lost"]
    assert ask(doors, "POST", "/interfaces", {"name": "enp0s3"})[0] == 409
    assert ask(doors, "POST", "/interfaces?replace=true", {"name": "enp0s3"})[0] == 200
    status, body = ask(doors, "PATCH", "/interfaces/enp0s3", {"mode": "generic"})
    assert (status, body["interface"]["mode"]) == (200, "generic")
    assert ask(doors, "PATCH", "/interfaces/enp0s3", {})[0] == 400
    assert [state["name"] for state in ask(doors, "GET", "/interfaces")[1]] == ["enp0s3"]
    assert ask(doors, "GET", "/interfaces/enp0s3")[1]["mode"] == "generic"
    assert ask(doors, "DELETE", "/interfaces/enp0s3") == (200, {"changed": 1})
    assert ask(doors, "GET", "/interfaces/enp0s3")[0] == 404
    assert ask(doors, "DELETE", "/interfaces/enp0s3")[0] == 404


def test_a_forward_is_added_once_and_replaced_at_will(doors):
    assert ask(doors, "POST", "/forwards", DIRECT) == (200, {"changed": 1})
    status, body = ask(doors, "POST", "/forwards", DIRECT)
    assert (status, body["error"]) == (409, "refused")
    assert body["detail"] == "forward 10.10.3.5 exists: use replace"
    assert ask(doors, "PUT", "/forwards", {"to": "10.10.3.5/32", "via": "10.10.3.1"})[0] == 200
    assert doors.service.entries == {"10.10.3.5": Forward("10.10.3.5", via="10.10.3.1")}
    assert [row["to"] for row in ask(doors, "GET", "/forwards?origin=operator")[1]] == ["10.10.3.5"]
    assert [row["to"] for row in ask(doors, "GET", "/forwards?to=10.10.2.7")[1]] == [LEARNED.to]
    assert len(ask(doors, "GET", "/forwards")[1]) == 2
    assert len(ask(doors, "GET", "/forwards?limit=1")[1]) == 1
    assert ask(doors, "DELETE", "/forwards?to=10.10.3.5")[0] == 200
    assert ask(doors, "DELETE", "/forwards?to=10.10.3.5")[0] == 404


def test_a_list_is_all_or_nothing_and_names_the_wrong_entry(doors):
    good = {"to": "192.0.2.1", "via": "10.10.3.1"}
    status, body = ask(doors, "POST", "/forwards", [good, {**DIRECT, "dst_mac": "01:00:5e:00:00:01"}])
    assert (status, body["field"]) == (400, "forward[1].dst_mac")
    status, body = ask(doors, "POST", "/forwards", [good, {**good, "to": "192.0.2.1/32"}])
    assert (status, body["field"]) == (400, "forward[1].to")
    assert "also forward[0]" in body["detail"]
    assert doors.service.entries == {}
    assert ask(doors, "POST", "/forwards", [good, DIRECT]) == (200, {"changed": 2})
    assert ask(doors, "DELETE", "/forwards?to=192.0.2.1&to=192.0.2.2")[0] == 404
    assert len(doors.service.entries) == 2
    assert ask(doors, "DELETE", "/forwards?to=192.0.2.1&to=10.10.3.5") == (200, {"changed": 2})


def test_many_entries_go_in_one_request_and_come_back(doors):
    many = [{"to": f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", "via": "10.10.3.1"} for n in range(65536, 95536)]
    assert ask(doors, "POST", "/forwards", many) == (200, {"changed": 30000})
    assert len(ask(doors, "GET", "/forwards?origin=operator")[1]) == 30000


def test_get_flush_next_hops_detach(doors):
    status, body = ask(doors, "GET", "/forwards/get?address=10.10.3.5&in=enp0s3")
    assert (status, body["verdict"], body["why"][0]) == (200, "FORWARDED", "in by enp0s3")
    assert ask(doors, "POST", "/forwards/flush", {"origin": "learned"}) == (200, {"changed": 1})
    assert ask(doors, "GET", "/next-hops")[1][0]["packets"] == 7
    assert ask(doors, "POST", "/detach")[0] == 200
    assert doors.service.detached


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "field"),
    [
        ("POST", "/forwards", b"", 400, "body"),
        ("POST", "/forwards", b"{", 400, "body"),
        ("POST", "/forwards", b"\xff\xfe", 400, "body"),
        ("POST", "/forwards", b"[" * 100_000, 400, "body"),
        ("POST", "/forwards", b"[]", 400, "body"),
        ("POST", "/forwards", b"null", 400, "body"),
        ("POST", "/forwards", b'{"to": 5}', 400, "to"),
        ("POST", "/forwards", b'[{"to": "10.0.0.1", "via": "10.0.0.2"}, {"to": null}]', 400, "forward[1].to"),
        ("POST", "/forwards", b'{"to": "10.0.0.1", "via": "10.0.0.2", "colour": 1}', 400, "colour"),
        ("POST", "/forwards", b'{"to": "10.0.0.1", "via": "10.0.0.2", "\\u001b[2J\\n": 1}', 400, "'\\x1b[2J\\n'"),
        ("POST", "/forwards", b'{"to": "10.0.0.1", "to": "10.0.0.9", "via": "10.0.0.2"}', 400, "to"),
        ("POST", "/forwards", b'[{"to": "10.0.0.1", "via": "10.0.0.2", "via": null}]', 400, "forward[0].via"),
        ("POST", "/forwards", b'[{"to": "10.0.0.1", "via": "10.0.0.2"}, 5]', 400, "forward[1]"),
        ("POST", "/forwards", b'{"to": "10.0.0.1"}', 400, "dev"),
        ("POST", "/forwards", b'{"to": "10.0.0.1/24", "via": "10.0.0.2"}', 400, "to"),
        ("POST", "/forwards", b'{"to": "\\ud800", "via": "10.0.0.2"}', 400, "body"),
        ("POST", "/forwards?replace=true", b"{}", 400, "replace"),
        ("POST", "/interfaces", b'{"name": "a/b"}', 400, "name"),
        ("POST", "/interfaces", b'{"name": "enp0s3", "mode": "fast"}', 400, "mode"),
        ("POST", "/interfaces?replace=yes", b'{"name": "enp0s3"}', 400, "replace"),
        ("POST", "/interfaces", b'{"name": "eth7"}', 404, ""),
        ("PATCH", "/interfaces/enp0s3", b'{"name": "x"}', 400, "name"),
        ("PATCH", "/interfaces/enp0s3", b'{"mode": "auto", "mode": "native"}', 400, "mode"),
        ("DELETE", "/forwards", None, 400, "to"),
        ("GET", "/forwards?limit=0", None, 400, "limit"),
        ("GET", "/forwards?limit=-1", None, 400, "limit"),
        ("GET", "/forwards?limit=1&limit=2", None, 400, "limit"),
        ("GET", "/forwards?origin=both", None, 400, "origin"),
        ("GET", "/forwards?from=x", None, 400, "from"),
        ("GET", "/forwards/get", None, 400, "address"),
        ("GET", "/forwards/get?address=::ffff:10.0.0.1", None, 400, "address"),
        ("GET", "/forwards/get?address=10.0.0.1&in=a%20b", None, 400, "in"),
        ("POST", "/forwards/flush", b'{"origin": "operator"}', 400, "origin"),
        ("GET", "/nowhere", None, 404, ""),
        ("GET", "/status/", None, 404, ""),
        ("GET", "/interfaces/a%2fb", None, 404, ""),
        ("POST", "/status", b"{}", 405, "method"),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(doors, method, target, body, status, field):
    got, answer = ask(doors, method, target, body, raw=True)
    assert (got, answer["field"]) == (status, field)
    assert set(answer) - {"errors", "count", "line"} == {"error", "field", "detail", "hint"}
    assert "\n" not in answer["detail"] + answer["hint"]
    assert doors.service.entries == {}
    assert doors.service.wanted == {}


def test_a_body_too_large_is_refused_before_it_is_sent(doors):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(doors.run / "admin.sock"))
        client.sendall(b"POST /forwards HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{" % (body.BODY_MOST + 1))
        answer = b""
        while b"send at most" not in answer and (part := client.recv(4096)):
            answer += part
    assert b"400 Bad Request" in answer
    assert b"send at most 64 MiB" in answer


def test_a_client_that_stops_sending_does_not_wait_for_ever(doors, monkeypatch):
    monkeypatch.setattr(body, "BODY_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(doors.run / "admin.sock"))
        client.sendall(b"POST /forwards HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert b"400 Bad Request" in client.recv(4096)


def test_the_kernel_s_no_is_409_and_our_own_fault_is_500(doors, caplog):
    doors.service.fault = KERNEL_FAULT
    status, body = ask(doors, "POST", "/forwards", DIRECT)
    assert (status, body["error"]) == (409, "kernel")
    assert "no space left" in body["detail"]
    doors.service.fault = ZeroDivisionError("a bug")
    status, body = ask(doors, "GET", "/status")
    assert (status, body["error"]) == (500, "internal")
    assert "a bug" not in json.dumps(body)
    assert "a bug" in caplog.text


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
def test_the_view_socket_only_shows(doors, method):
    assert ask(doors, "GET", "/status", door="view.sock")[0] == 200
    status, body = ask(doors, method, "/forwards", DIRECT, door="view.sock")
    assert (status, body["error"]) == (403, "forbidden")
    assert doors.service.entries == {}


def test_garbage_on_the_sockets_does_not_stop_the_daemon(doors):
    for door in ("admin.sock", "view.sock"):
        for garbage in (b"\0" * 1000, os.urandom(5000), b"GET /status", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 5000):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(doors.run / door))
                client.sendall(garbage)
        assert ask(doors, "GET", "/status", door=door)[0] == 200


def test_the_sockets_have_their_rights_and_are_removed(tmp_path):
    run = tmp_path / "deep" / "run"
    umask = os.umask(0o077)
    try:
        with Doors(run):
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.iterdir()}
            assert modes == {"admin.sock": 0o600, "view.sock": 0o660}
            assert stat.S_IMODE(run.stat().st_mode) == 0o755
    finally:
        os.umask(umask)
    assert list(run.iterdir()) == []


def test_a_stale_socket_is_replaced_and_a_live_one_respected(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(run / "admin.sock"))
    with Doors(run) as doors:
        with pytest.raises(Refused, match="a daemon already answers"), Doors(run):
            pass
        assert ask(doors, "GET", "/status")[0] == 200
        assert ask(doors, "GET", "/status", door="view.sock")[0] == 200


def test_what_is_no_socket_is_left_alone(tmp_path):
    (tmp_path / "admin.sock").write_text("precious")
    with pytest.raises(Refused, match="something that is no socket"), Doors(tmp_path):
        pass
    assert (tmp_path / "admin.sock").read_text() == "precious"
    with pytest.raises(InvalidInput, match="shorter directory"), Doors(tmp_path / ("d" * 120)):
        pass


def test_every_answer_type_is_what_the_protocol_says(doors):
    from hopline.daemon.protocol import ForwardRow, Status

    assert msgspec.convert(ask(doors, "GET", "/status")[1], Status).pid == 4711
    assert msgspec.convert(ask(doors, "GET", "/forwards")[1], list[ForwardRow]) == [LEARNED]
