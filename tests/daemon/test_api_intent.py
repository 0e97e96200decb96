"""The intent as a whole over the API: shown, compared, applied, confirmed, rolled back, loaded."""

import json
import time

import pytest

from daemon.asking import ask, unix
from front_double import NEIGHBOUR_MAC
from hopline.config import Forward, Interface
from hopline.daemon.api import room

HOP = {"dev": "enp0s9", "dst_mac": NEIGHBOUR_MAC}
DOCUMENT = {
    "interface": [{"name": "enp0s3", "mode": "generic"}],
    "forward": [{"to": "10.10.3.5", **HOP}, {"to": "2001:db8::/64", "via": "fe80::1", "dev": "enp0s9"}],
}
CSV = {"Content-Type": "text/csv"}
LINES = {"Content-Type": "application/x-ndjson"}


def put(doors, document=DOCUMENT, query="", **more):
    return ask(doors, "PUT", f"/intent{query}", document, **more)


def test_a_document_becomes_the_intent_and_is_shown_again(doors):
    status, answer = put(doors)
    assert status == 200
    assert answer["revision"] == 1
    assert answer["counts"] == {"interface": {"added": 1, "changed": 0, "removed": 0},
                                "forward": {"added": 2, "changed": 0, "removed": 0}}  # fmt: skip
    assert answer["differences"][1] == {"noun": "forward", "key": "10.10.3.5", "before": None,
                                        "after": DOCUMENT["forward"][0] | {"to": "10.10.3.5"}}  # fmt: skip
    assert doors.service.wanted == {"enp0s3": Interface("enp0s3", "generic")}
    assert doors.service.entries["10.10.3.5"] == Forward("10.10.3.5", **HOP)
    status, shown = ask(doors, "GET", "/intent", door="view.sock")
    assert (status, len(shown["forward"])) == (200, 2)
    assert put(doors, shown)[1]["counts"] == {}
    status, rows = ask(doors, "GET", "/history", door="view.sock")
    assert (status, [row["number"] for row in rows], rows[0]["what"]) == (200, [1], "apply")


def test_what_is_asked_of_apply_reaches_it(doors):
    put(doors, query="?merge=true&dry_run=true&confirm_within=2.5&revision=0&limit=7")
    put(doors)
    assert doors.service.asked == [("apply", True, True, 2.5, 0, 7), ("apply", False, False, None, None, 100)]
    ask(doors, "POST", "/intent/diff?merge=true&limit=0", {})
    assert doors.service.asked[-1] == ("apply", True, True, None, None, 0)


def test_a_comparison_changes_nothing_and_is_for_all_who_look(doors):
    put(doors)
    for door in ("admin.sock", "view.sock"):
        status, answer = ask(doors, "POST", "/intent/diff", {"forward": DOCUMENT["forward"][:1]}, door=door)
        assert (status, answer["dry_run"], answer["revision"]) == (200, True, 1)
        assert [row["key"] for row in answer["differences"]] == ["enp0s3", "2001:db8::/64"]
        assert all(row["after"] is None for row in answer["differences"])
    assert len(doors.service.entries) == 2
    status, answer = put(doors, door="view.sock")
    assert (status, answer["error"]) == (403, "forbidden")


def test_a_change_waits_is_confirmed_and_taken_back(doors):
    assert put(doors, query="?confirm_within=60")[1]["confirm_within_s"] == 60
    assert ask(doors, "GET", "/history")[1][0]["pending"] is True
    assert put(doors, {})[0] == 409
    assert ask(doors, "POST", "/intent/confirm") == (200, {"revision": 1})
    assert ask(doors, "POST", "/intent/confirm")[0] == 409
    status, answer = ask(doors, "POST", "/history/0/rollback?dry_run=true")
    assert (status, answer["dry_run"], answer["counts"]["forward"]["removed"]) == (200, True, 2)
    assert len(doors.service.entries) == 2
    assert ask(doors, "POST", "/history/0/rollback")[1]["revision"] == 2
    assert doors.service.entries == {}
    assert ask(doors, "POST", "/history/9/rollback")[0] == 404


def test_a_document_for_another_revision_is_refused(doors):
    put(doors)
    assert put(doors, {}, "?revision=0")[0] == 409
    assert put(doors, {}, "?revision=1")[0] == 200


@pytest.mark.parametrize(
    ("method", "target", "data", "field"),
    [
        ("PUT", "/intent", b"", "body"),
        ("PUT", "/intent", b"[]", None),
        ("PUT", "/intent", b'{"forwards": []}', None),
        ("PUT", "/intent", b'{"forward": [{"to": 5}]}', "forward[0].to"),
        ("PUT", "/intent", b'{"forward": [{"to": "10.0.0.1", "dev": "eth9", "dst_mac": "02:00:00:00:00:01"}]}',
         "forward[0].dev"),
        ("PUT", "/intent?merge=1", b"{}", "merge"),
        ("PUT", "/intent?dry_run=True", b"{}", "dry_run"),
        ("PUT", "/intent?confirm_within=0.5", b"{}", "confirm_within"),
        ("PUT", "/intent?confirm_within=nan", b"{}", "confirm_within"),
        ("PUT", "/intent?confirm_within=1e3", b"{}", "confirm_within"),
        ("PUT", "/intent?confirm_within=86401", b"{}", "confirm_within"),
        ("PUT", "/intent?revision=-1", b"{}", "revision"),
        ("PUT", "/intent?revision=9223372036854775808", b"{}", "revision"),
        ("PUT", "/intent?limit=1001", b"{}", "limit"),
        ("POST", "/intent/diff?dry_run=false", b"{}", "dry_run"),
        ("POST", "/intent/diff?limit=+1", b"{}", "limit"),
        ("POST", "/intent/confirm", b"{}", "body"),
        ("POST", "/history/x/rollback", None, "number"),
        ("POST", "/history/-1/rollback", None, "number"),
        ("POST", "/history/%d9/rollback", None, "number"),
        ("POST", "/history/1/rollback", b"{}", "body"),
        ("GET", "/history?limit=1", None, "limit"),
        ("GET", "/openapi.json?x=1", None, "x"),
        ("DELETE", "/interfaces/enp0s3", b"x", "body"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_changes_nothing(doors, method, target, data, field):
    status, answer = ask(doors, method, target, data, raw=True)
    assert (status, answer["error"]) == (400, "invalid_input"), answer
    if field is not None:
        assert answer["field"] == field
    assert doors.service.past == []


def test_all_that_is_wrong_is_named_at_once(doors):
    many = [{"to": f"10.1.{n >> 8}.{n & 255}", **HOP} for n in range(1000)]
    for place in range(0, 1000, 40):
        many[place]["dst_mac"] = 5 if place % 80 else "zz"
    for method, target, data in (("PUT", "/intent", {"forward": many}), ("POST", "/intent/diff", {"forward": many}),
                                 ("PUT", "/forwards", many), ("POST", "/forwards", many)):  # fmt: skip
        status, answer = ask(doors, method, target, data)
        assert (status, answer["count"], len(answer["errors"])) == (400, 25, 20), target
        assert [error["field"] for error in answer["errors"][:3]] == [f"forward[{n}].dst_mac" for n in (0, 40, 80)]
        assert all(set(error) >= {"field", "detail", "hint"} for error in answer["errors"])
        assert answer["field"] == "forward[0].dst_mac"
    assert doors.service.past == []


def test_a_place_is_that_of_the_document_where_the_service_refuses(doors):
    status, answer = put(doors, {"forward": [DOCUMENT["forward"][0], {"to": "10.0.0.1", **HOP, "dev": "gone0"}]})
    assert (status, answer["field"], answer["key"]) == (400, "forward[1].dev", "10.0.0.1")


def lines(count, wrong=()):
    for n in range(count):
        mac = "zz" if n in wrong else NEIGHBOUR_MAC
        yield f"10.{n >> 16}.{n >> 8 & 255}.{n & 255},enp0s9,{mac}"


def test_an_upload_is_entered_as_it_comes(doors):
    doors.service.entries = {"192.0.2.1": Forward("192.0.2.1", via="10.10.3.1")}
    text = "\n".join(["to,dev,dst_mac", *lines(100_000)])
    status, answer = ask(doors, "POST", "/forwards/load?limit=3", text, raw=True, headers=CSV)
    assert (status, answer["counts"]["forward"]["added"], len(answer["differences"])) == (200, 100_000, 3)
    assert doors.service.past[-1].what == "forward load"
    assert len(doors.service.entries) == 100_001
    data = "\n".join(json.dumps({"to": f"198.51.100.{n}", **HOP}) for n in range(100))
    pieces = (data[start : start + 7].encode() for start in range(0, len(data), 7))
    # an iterable goes in chunks, cut anywhere
    status, answer = ask(doors, "POST", "/forwards/load", pieces, raw=True,
                         headers={"Content-Type": "Application/X-NDJSON; charset=utf-8"})  # fmt: skip
    assert (status, answer["counts"]["forward"]["added"]) == (200, 100)


def test_an_upload_that_is_wrong_enters_nothing_and_names_lines(doors):
    text = "\n".join(["to,dev,dst_mac", *lines(1000, wrong=range(0, 1000, 40))])
    status, answer = ask(doors, "POST", "/forwards/load", text, raw=True, headers=CSV)
    assert (status, answer["count"], len(answer["errors"])) == (400, 25, 20)
    assert (answer["field"], answer["line"], answer["key"]) == ("forward[0].dst_mac", 2, "10.0.0.0")
    assert (answer["errors"][1]["field"], answer["errors"][1]["line"]) == ("forward[40].dst_mac", 42)
    for headers, data, field in (({}, text, "Content-Type"), ({"Content-Type": "text/plain"}, text, "Content-Type"),
                                 (CSV, "", None), (CSV, "to,colour\n", None), (LINES, "{", None)):  # fmt: skip
        status, answer = ask(doors, "POST", "/forwards/load", data, raw=True, headers=headers)
        assert (status, answer["error"]) == (400, "invalid_input")
        assert field in (None, answer["field"])
    assert ask(doors, "POST", "/forwards/load", text, raw=True, headers=CSV, door="view.sock")[0] == 403
    assert doors.service.past == []


def test_an_upload_that_is_nonsense_is_refused_before_its_end(doors):
    with unix(doors.run / "admin.sock") as sock:
        sock.sendall(
            b"POST /forwards/load HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: 400000000\r\n\r\n"
        )
        sock.sendall(b"to,dev,dst_mac\n" + b"x,y,z\n" * 400_000)
        assert b" 400 " in sock.recv(100)
    assert ask(doors, "GET", "/status")[0] == 200


def test_only_so_many_uploads_at_once(doors):
    head = b"POST /forwards/load HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: 1000\r\n\r\nto,"
    held = [unix(doors.run / "admin.sock") for _ in range(room.UPLOADS_MOST)]
    try:
        for sock in held:
            sock.sendall(head)
        deadline = time.monotonic() + 10
        while doors.front._room._uploads < room.UPLOADS_MOST:
            assert time.monotonic() < deadline
        answer = ask(doors, "POST", "/forwards/load", "to,via\n10.0.0.1,10.0.0.2\n", raw=True, headers=CSV)
        assert (answer[0], answer[1]["error"]) == (503, "busy")
    finally:
        for sock in held:
            sock.close()
    for _ in range(100):
        answer = ask(doors, "POST", "/forwards/load", "to,via\n10.0.0.1,10.0.0.2\n", raw=True, headers=CSV)
        if answer[0] == 200:
            break
    assert answer[0] == 200


def test_a_type_of_body_that_is_not_json_is_refused(doors):
    for kind in ("text/csv", "multipart/form-data", "nonsense"):
        status, answer = put(doors, headers={"Content-Type": kind})
        assert (status, answer["field"]) == (400, "Content-Type")
    # the last is what curl says of its -d
    for kind in ("application/json; charset=utf-8", "application/x-www-form-urlencoded"):
        assert put(doors, headers={"Content-Type": kind})[0] == 200


def test_a_great_intent_is_shown_whole(doors):
    doors.service.entries = {f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}": Forward("x", **HOP) for n in range(35_000)}
    shown = ask(doors, "GET", "/intent")[1]
    assert len({entry["to"] for entry in shown["forward"]}) == 35_000
    assert shown["interface"] == []
    doors.service.entries = {}
    assert ask(doors, "GET", "/intent") == (200, {"interface": [], "forward": [], "service": [], "decap": []})
