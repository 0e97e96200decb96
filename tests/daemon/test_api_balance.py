"""Services, backends and decap over the API: what is asked reaches the daemon, and what is wrong is named."""

import json

import jsonschema_rs
import pytest

from daemon.asking import ask
from hopline.config import Backend, Decap, Service
from hopline.daemon.api import openapi

VIP, SERVER, OTHER, MAC = "192.168.33.33", "192.168.33.11", "192.168.33.12", "08:00:27:96:39:d5"
WEB = {"name": "web", "vip": VIP, "port": 80, "protocol": "tcp"}
BACKENDS = "/services/web/backends"


@pytest.fixture
def web(doors):
    assert ask(doors, "POST", "/services", {**WEB, "backend": [{"address": SERVER, "weight": 3}]})[0] == 200
    return doors


def wanted(doors):
    return doors.service.services_by_name


def test_a_service_is_added_shown_set_and_deleted(doors):
    status, answer = ask(doors, "POST", "/services", {**WEB, "backend": [{"address": SERVER}]})
    assert status == 200
    assert answer["service"] | {"port": "80", "ring": 65537, "idle": 900} == answer["service"]
    assert answer["state"]["backends"][0]["address"] == SERVER
    assert wanted(doors) == {"web": Service("web", VIP, "80", "tcp", backend=(Backend(SERVER),))}
    status, answer = ask(doors, "POST", "/services", WEB)
    assert (status, answer["error"]) == (409, "refused")
    status, rows = ask(doors, "GET", "/services", door="view.sock")
    assert (status, [row["service"]["name"] for row in rows]) == (200, ["web"])
    assert ask(doors, "GET", "/services/web", door="view.sock")[1] == rows[0]
    status, answer = ask(doors, "PATCH", "/services/web", {"port": "80-81", "idle": 60, "local": "192.168.33.10"})
    assert (status, answer["service"]["port"], wanted(doors)["web"].local) == (200, "80-81", "192.168.33.10")
    assert ask(doors, "PATCH", "/services/web", {"local": None})[1]["service"]["local"] is None
    assert ask(doors, "DELETE", "/services/web") == (200, {"changed": 1})
    for method, target in (("GET", "/services/web"), ("DELETE", "/services/web"), ("PATCH", "/services/web")):
        body = {"idle": 60} if method == "PATCH" else None
        assert ask(doors, method, target, body)[0] == 404


def test_what_takes_time_to_count_is_there_where_it_is_asked_for(web):
    plain = ask(web, "GET", "/services/web")[1]
    assert (plain["ring"], plain["flows"], plain["backends"][0]["packets"]) == (None, None, None)
    row = ask(web, "GET", "/services/web?stats=true&flows=true&ring=true", door="view.sock")[1]
    assert None not in (row["ring"], row["flows"], row["backends"][0]["packets"], row["backends"][0]["slots"])
    (row,) = ask(web, "GET", "/services?ring=true&stats=false")[1]
    assert (row["ring"]["slots"], row["flows"]) == (65537, None)


def test_backends_are_added_set_drained_and_removed(web):
    status, answer = ask(web, "POST", BACKENDS, {"address": OTHER, "dst_mac": MAC.upper(), "dev": "enp0s9"})
    assert (status, answer["service"], [row["address"] for row in answer["backends"]]) == (200, "web", [OTHER])
    assert wanted(web)["web"].backend[1] == Backend(OTHER, dst_mac=MAC, dev="enp0s9")
    status, answer = ask(web, "POST", BACKENDS, [{"address": "192.168.33.13"}, {"address": "2001:DB8::14"}])
    assert (status, [row["address"] for row in answer["backends"]]) == (200, ["192.168.33.13", "2001:db8::14"])
    assert ask(web, "POST", BACKENDS, {"address": SERVER})[0] == 409
    assert ask(web, "PATCH", f"{BACKENDS}/{OTHER}", {"dst_mac": None, "dev": None, "weight": 7})[0] == 200
    assert wanted(web)["web"].backend[1] == Backend(OTHER, 7)
    assert ask(web, "POST", f"{BACKENDS}/{SERVER}/drain")[1]["backends"][0]["state"] == "draining"
    assert wanted(web)["web"].backend[0] == Backend(SERVER, 3, drained=True)
    status, left = ask(web, "GET", f"/services/web/drained?address={SERVER}&since=1.5", door="view.sock")
    assert (status, left["address"], left["flows"]) == (200, SERVER, 1)
    assert ask(web, "GET", f"/services/web/drained?address={SERVER}")[1]["flows"] == 3
    assert ask(web, "POST", f"{BACKENDS}/{SERVER}/undrain")[0] == 200
    assert wanted(web)["web"].backend[0] == Backend(SERVER, 3)
    assert ask(web, "PATCH", f"{BACKENDS}/{SERVER}", {"weight": 0})[0] == 200
    assert ask(web, "POST", f"{BACKENDS}/{SERVER}/undrain")[0] == 409
    # an address in the path may be spelled otherwise
    assert ask(web, "DELETE", f"{BACKENDS}/2001:DB8:0::14?grace=30")[0] == 200
    assert ask(web, "DELETE", f"{BACKENDS}/{OTHER}")[0] == 200
    assert web.service.leaving == [("web", "2001:db8::14", 30.0), ("web", OTHER, None)]
    for method, target in (
        ("DELETE", OTHER),
        ("PATCH", OTHER),
        ("POST", f"{OTHER}/drain"),
        ("POST", f"{OTHER}/undrain"),
    ):
        body = {"weight": 1} if method == "PATCH" else None
        assert ask(web, method, f"{BACKENDS}/{target}", body)[0] == 404


def test_decap_is_added_shown_and_removed(doors):
    entry = {"local": "2001:DB8::11", "from": "2001:db8::/32", "encap": "gue", "gue_port": 7000}
    assert ask(doors, "POST", "/decaps", entry)[0] == 200
    assert ask(doors, "POST", "/decaps", {"local": SERVER, "from": "any"})[0] == 200
    assert ask(doors, "POST", "/decaps", {"local": SERVER, "from": "192.168.33.10/32"})[0] == 200
    assert ask(doors, "POST", "/decaps", {"local": SERVER, "from": "0.0.0.0/0"})[0] == 409
    assert set(doors.service.decap_entries.values()) == {
        Decap("2001:db8::11", "2001:db8::/32", "gue", 7000),
        Decap(SERVER, "any"),
        Decap(SERVER, "192.168.33.10"),
    }
    rows = ask(doors, "GET", "/decaps", door="view.sock")[1]
    assert [row["decap"]["from"] for row in rows] == ["192.168.33.10", "any", "2001:db8::/32"]
    assert ask(doors, "DELETE", f"/decaps?local={SERVER}&from=any") == (200, {"changed": 1})
    assert ask(doors, "DELETE", f"/decaps?local={SERVER}&from=any")[0] == 404
    assert ask(doors, "DELETE", "/decaps?local=2001:db8::11&from=2001:DB8::/32&encap=gue")[0] == 200
    assert list(doors.service.decap_entries) == [f"{SERVER} ipip from 192.168.33.10"]


def test_a_door_that_only_shows_changes_nothing(web):
    for method, target, body in (
        ("POST", "/services", {**WEB, "name": "x"}),
        ("PATCH", "/services/web", {"idle": 5}),
        ("DELETE", "/services/web", None),
        ("POST", BACKENDS, {"address": OTHER}),
        ("PATCH", f"{BACKENDS}/{SERVER}", {"weight": 5}),
        ("DELETE", f"{BACKENDS}/{SERVER}", None),
        ("POST", f"{BACKENDS}/{SERVER}/drain", None),
        ("POST", "/decaps", {"local": SERVER, "from": "any"}),
        ("DELETE", f"/decaps?local={SERVER}&from=any", None),
    ):
        status, answer = ask(web, method, target, body, door="view.sock")
        assert (status, answer["error"]) == (403, "forbidden"), target
    assert len(web.service.past) == 1


@pytest.mark.parametrize(
    ("method", "target", "body", "field"),
    [
        ("POST", "/services", {}, "name"),
        ("POST", "/services", {**WEB, "vip": "224.0.0.1"}, "vip"),
        ("POST", "/services", {**WEB, "port": 0}, "port"),
        ("POST", "/services", {**WEB, "port": 80.5}, "port"),
        ("POST", "/services", {**WEB, "ring": 65536}, "ring"),
        ("POST", "/services", {**WEB, "ring": "65537"}, "ring"),
        ("POST", "/services", {**WEB, "name": "alt", "port": "1-100", "protocol": "both"}, "port"),
        ("POST", "/services", {**WEB, "colour": "red"}, "colour"),
        ("POST", "/services", {**WEB, "backend": [{"address": SERVER}, {"address": SERVER}]}, "backend[1].address"),
        ("POST", "/services", {**WEB, "backend": [{"address": SERVER, "wait": 1}]}, "backend[0].wait"),
        ("POST", "/services", {**WEB, "backend": [5]}, "backend[0]"),
        ("POST", "/services", {**WEB, "backend": SERVER}, "backend"),
        ("POST", "/services", [WEB], "body"),
        ("POST", "/services?replace=true", WEB, "replace"),
        ("GET", "/services?stats=1", None, "stats"),
        ("GET", "/services/a.b", None, "name"),
        ("PATCH", "/services/web", {}, "body"),
        ("PATCH", "/services/web", {"name": "x"}, "name"),
        ("PATCH", "/services/web", {"backend": []}, "backend"),
        ("PATCH", "/services/web", {"idle": None}, "idle"),
        ("PATCH", "/services/web", {"idle": 0}, "idle"),
        ("PATCH", "/services/web", {"vip": SERVER}, "backend[0].address"),
        ("POST", BACKENDS, [], "body"),
        ("POST", BACKENDS, {"address": VIP}, "address"),
        ("POST", BACKENDS, {"address": OTHER, "weight": 65536}, "weight"),
        ("POST", BACKENDS, {"address": OTHER, "dst_mac": MAC}, "dev"),
        ("POST", BACKENDS, [{"address": OTHER}, {"address": OTHER}], "backend[1].address"),
        ("POST", BACKENDS, [{"address": OTHER}, {"address": OTHER, "weight": -1}], "backend[1].weight"),
        ("POST", BACKENDS, [{"address": OTHER}, {"weight": 1}], "backend[1].address"),
        ("PATCH", f"{BACKENDS}/{SERVER}", {}, "body"),
        ("PATCH", f"{BACKENDS}/{SERVER}", {"address": OTHER}, "address"),
        ("PATCH", f"{BACKENDS}/{SERVER}", {"dst_mac": MAC}, "dev"),
        ("PATCH", f"{BACKENDS}/x", {"weight": 1}, "address"),
        ("DELETE", f"{BACKENDS}/{SERVER}?grace=-1", None, "grace"),
        ("DELETE", f"{BACKENDS}/{SERVER}?grace=604801", None, "grace"),
        ("POST", f"{BACKENDS}/{SERVER}/drain", {}, "body"),
        ("GET", "/services/web/drained", None, "address"),
        ("GET", f"/services/web/drained?address={SERVER}&since=x", None, "since"),
        ("POST", "/decaps", {"local": SERVER}, "from"),
        ("POST", "/decaps", {"local": SERVER, "from": "2001:db8::/32"}, "from"),
        ("POST", "/decaps", {"local": SERVER, "from_": "any"}, "from_"),
        ("POST", "/decaps", {"local": SERVER, "from": "any", "gue_port": 7}, "gue_port"),
        ("DELETE", "/decaps", None, "local"),
        ("DELETE", f"/decaps?local={SERVER}", None, "from"),
        ("DELETE", f"/decaps?local={SERVER}&from=all", None, "from"),
        ("DELETE", f"/decaps?local={SERVER}&from=any&encap=gre", None, "encap"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_and_changes_nothing(web, method, target, body, field):
    status, answer = ask(web, method, target, body)
    assert (status, answer["error"]) == (400, "invalid_input"), answer
    assert answer["field"] == field, answer
    assert answer["detail"]
    assert answer["hint"]
    assert len(web.service.past) == 1


def test_a_name_that_is_given_twice_is_found_in_backends_too(web):
    once = '"address": "192.168.33.12"'
    for target, body, field in (
        ("/services", f'{{{json.dumps(WEB)[1:-1]}, "vip": "10.0.0.1"}}', "vip"),
        ("/services", f'{{{json.dumps(WEB)[1:-1]}, "backend": [{{{once}, {once}}}]}}', "backend[0].address"),
        (BACKENDS, f"{{{once}, {once}}}", "address"),
        (BACKENDS, f'[{{{once}}}, {{"address": "192.168.33.13", "weight": 1, "weight": 2}}]', "backend[1].weight"),
    ):
        status, answer = ask(web, "POST", target, body, raw=True)
        assert (status, answer["field"], answer["detail"]) == (400, field, "given twice")


def test_all_that_is_wrong_is_named_at_once(web):
    backends = [{"address": f"10.1.{n >> 8}.{n & 255}", "weight": -1 if n % 40 == 0 else 1} for n in range(1, 1000)]
    for target, body in (
        ("/services", {**WEB, "name": "x", "vip": "10.0.0.1", "backend": backends}),
        (BACKENDS, backends),
    ):
        status, answer = ask(web, "POST", target, body)
        assert (status, answer["count"], len(answer["errors"])) == (400, 24, 20), target
        assert answer["errors"][1]["field"] == "backend[79].weight"


def test_a_document_has_services_and_leads_back(doors):
    document = {
        "service": [{**WEB, "port": "80", "backend": [{"address": SERVER, "weight": 3}]}],
        "decap": [{"local": SERVER, "from": "any"}],
    }
    status, answer = ask(doors, "PUT", "/intent?confirm_within=60", document)
    assert (status, answer["counts"]["service"]["added"], answer["counts"]["decap"]["added"]) == (200, 1, 1)
    service, decap = answer["differences"]
    assert service["after"]["backend"] == [
        {"address": SERVER, "weight": 3, "via": None, "dst_mac": None, "dev": None, "drained": False}
    ]
    assert (decap["key"], decap["after"]["from"]) == (f"{SERVER} ipip from any", "any")
    assert ask(doors, "POST", "/intent/confirm")[0] == 200
    shown = ask(doors, "GET", "/intent")[1]
    assert ask(doors, "POST", "/intent/diff", shown)[1]["counts"] == {}
    shown["service"][0]["backend"].append({"address": OTHER})
    answer = ask(doors, "PUT", "/intent", shown)[1]
    assert answer["counts"] == {"service": {"added": 0, "changed": 1, "removed": 0}}
    assert ask(doors, "POST", "/history/1/rollback")[0] == 200
    assert wanted(doors)["web"].backend == (Backend(SERVER, 3),)
    assert ask(doors, "POST", "/history/0/rollback")[0] == 200
    assert (wanted(doors), doors.service.decap_entries) == ({}, {})


def test_a_document_that_wants_a_port_twice_names_the_place(web):
    alt = {**WEB, "name": "alt", "port": "79-81"}
    other = {**WEB, "name": "other", "vip": "192.168.33.34"}
    for target in ("/intent?merge=true", "/intent?dry_run=true&merge=true"):
        status, answer = ask(web, "PUT", target, {"service": [other, alt]})
        assert (status, answer["field"], answer["key"]) == (400, "service[1].port", "alt")
        assert "alt (79-81 tcp) and web (80 tcp) overlap on 192.168.33.33" in answer["detail"]
    # without merge the other one goes
    assert ask(web, "PUT", "/intent", {"service": [other, alt]})[0] == 200


def test_a_great_intent_of_services_is_shown_whole(doors):
    many = tuple(Backend(f"10.1.0.{n}") for n in range(1, 101))
    doors.service.services_by_name = {
        f"s{n:03}": Service(f"s{n:03}", f"10.2.{n >> 8}.{n & 255}", "80", "tcp", backend=many) for n in range(1000)
    }
    shown = ask(doors, "GET", "/intent")[1]
    assert [len(service["backend"]) for service in shown["service"]] == [100] * 1000
    rows = ask(doors, "GET", "/services?stats=true", door="view.sock")[1]
    assert [row["service"]["name"] for row in rows] == sorted(doors.service.services_by_name)


@pytest.fixture(scope="module")
def described():
    document = json.loads(openapi.text())

    def valid(name, value):
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        return jsonschema_rs.Draft202012Validator(schema).is_valid(value)

    return valid


@pytest.mark.parametrize(
    ("more", "right"),
    [
        ({}, True),
        ({"port": "80-81"}, True),
        ({"port": "any"}, True),
        ({"port": "080"}, False),
        ({"port": 65536}, False),
        ({"vip": "host"}, False),
        ({"protocol": "sctp"}, False),
        ({"local": None, "own_dev": None}, True),
        ({"local": "10.0.0.0/24", "own": "on-wire", "own_dev": "eth0"}, True),
        ({"ring": 250}, False),
        ({"interval": 0.01}, False),
        ({"check": "http://x/"}, True),
        ({"quic": True}, False),
        ({"name": "a.b"}, False),
        ({"backend": [{"address": SERVER, "via": "10.0.0.1"}]}, True),
        ({"backend": [{"address": SERVER, "dst_mac": MAC, "dev": "eth0", "drained": True}]}, True),
        ({"backend": [{"address": SERVER, "dst_mac": MAC}]}, False),
        ({"backend": [{"address": SERVER, "dev": "eth0"}]}, False),
        ({"backend": [{"address": SERVER, "weight": 65536}]}, False),
        ({"backend": [{}]}, False),
    ],
    ids=str,
)
def test_a_service_is_described_closely(described, more, right):
    assert described("Service", {**WEB, **more}) is right
    assert described("Intent", {"service": [{**WEB, **more}]}) is right


def test_the_other_types_are_described_closely(described):
    assert described("ServiceChange", {"idle": 60, "local": None})
    assert described("BackendChange", {"weight": 0, "via": None})
    for name in ("ServiceChange", "BackendChange"):
        assert not described(name, {})
        assert not described(name, {"name": "x"})
    assert described("Decap", {"local": SERVER, "from": "any"})
    for wrong in ({"local": SERVER}, {"local": SERVER, "from": "all"}, {"local": SERVER, "from_": "any"}):
        assert not described("Decap", wrong)
