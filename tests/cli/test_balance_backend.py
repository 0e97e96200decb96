"""`hopline backend`: the servers of a service, and what a drain waits for."""

import json

import pytest

from cli.balanced import ADD, ONE, OTHER, SILENT, Leftovers, Readings, served
from hopline.cli.balance import drain as waiting
from hopline.config import Backend


@pytest.fixture(autouse=True)
def readings(run, monkeypatch):
    """What is shown of services; the double's own rows are for others."""
    found = Readings(run.service)
    monkeypatch.setattr(run.service, "services", found.services)
    # what a change answers is shown alike
    monkeypatch.setattr(
        run.service, "backend_row", lambda service, one, *_: found.backend(service, one, False, False, False)
    )


@pytest.fixture
def left(run, monkeypatch):
    """A function that says what a drained backend has left."""

    def left(*answers):
        found = Leftovers(*answers)
        monkeypatch.setattr(run.service, "backend_drained", found)
        return found

    return left


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by being waited for."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    found = Clock()
    monkeypatch.setattr(waiting, "time", found)
    return found


def backends(run):
    return run.service.services_by_name["web"].backend


def test_a_backend_is_added_set_shown_and_deleted(run):
    served(run)
    code, out, err = run("backend", "add", "web", ONE)
    assert (code, out, err) == (1, "", f"hopline: backend web {ONE} exists: use `hopline backend set`\n")
    assert run("backend", "set", "web", ONE, "--weight", "0") == (0, "", "")
    assert run("backend", "set", "web", OTHER, "--via", "192.168.33.1") == (0, "", "")
    assert backends(run) == (Backend(ONE, 0), Backend(OTHER, 3, via="192.168.33.1"))
    assert run("backend", "set", "web", OTHER, "--via", "")[0] == 0
    assert backends(run)[1] == Backend(OTHER, 3)
    code, out, _ = run("backend")
    assert out.splitlines() == [
        "SERVICE  ADDRESS        WEIGHT  STATE        SHARE  FLOWS  DEV     NEXT-HOP       MAC                REASON",
        "web      192.168.33.11       0  draining     0.00%      2  enp0s9  192.168.33.11  08:00:27:f2:cb:f9  -",
        "web      192.168.33.12       3  unchecked  100.00%      2  enp0s9  192.168.33.12  08:00:27:f2:cb:f9  -",
    ]
    assert run("backend", "show", "web")[1] == run("backend", "ls")[1] == out
    assert json.loads(run("backend", "--json")[1])[0]["backends"][0]["address"] == ONE
    assert run("backend", "del", "web", ONE) == (0, "", "")
    assert run("backend", "rm", "web", OTHER, "--grace", "90s") == (0, "", "")
    assert run("backend", "add", "web", ONE)[0] == 0
    assert run("backend", "delete", "web", ONE, "--grace", "0")[0] == 0
    assert [grace for _, _, grace in run.service.leaving] == [None, 90, 0]
    assert run("backend", "del", "web", ONE)[2].startswith(f"hopline: backend web {ONE}: no such backend")


def test_the_way_may_be_given_by_mac_and_device_as_xdp_tx_iptunnel_has_it(run):
    run(*ADD)
    assert run("backend", "add", "web", ONE, "--dst-mac", "08:00:27:96:39:D5", "--dev", "enp0s9")[0] == 0
    assert backends(run) == (Backend(ONE, dst_mac="08:00:27:96:39:d5", dev="enp0s9"),)
    assert json.loads(run("backend", "add", "web", OTHER, "--json")[1])["backends"][0]["address"] == OTHER


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["add", "web"], "missing argument 'ADDR'"),
        (["add", "web", ONE, "--dst-mac", "02:00:00:00:00:01"], "--dst-mac needs the device that it is reached by"),
        (["add", "web", ONE, "--dev", "enp0s9"], "--dev alone is no way: give --dst-mac too, or --via"),
        (["add", "web", ONE, "--via", "10.0.0.1", "--dst-mac", "02:00:00:00:00:01", "--dev", "enp0s9"], "--via finds"),
        (["add", "web", ONE, "--weight", "much"], "invalid value for '--weight'"),
        (["set", "web", ONE], "nothing to set: give --weight, --via, or --dst-mac"),
        (["del", "web", ONE, "--grace", "soon"], "invalid value for '--grace'"),
        (["drain", "web", ONE, "--timeout", "5"], "--timeout is for --wait: give both"),
        (["drain", "web", ONE, "--wait", "--timeout", "0"], "invalid value for '--timeout'"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(run, words, text):
    code, out, err = run("backend", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"hopline: {text}")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["add", "web", "192.168.33.33"], "address: 192.168.33.33 is the VIP itself"),
        (["add", "web", "10.0.0.5", "--weight", "65536"], "weight: 65536 is out of range"),
        (["add", "none", "10.0.0.5"], "service none: no such service"),
        (["add", "we b", "10.0.0.5"], "name: 'we b' cannot name a service"),
        (["drain", "web", "10.0.0.5"], "backend web 10.0.0.5: no such backend"),
        (["undrain", "web", ONE], f"backend undrain web {ONE}: its weight is 0"),
    ],
)
def test_what_is_refused_is_one_line_and_exits_with_1(run, words, text):
    served(run)
    run("backend", "set", "web", ONE, "--weight", "0")
    code, out, err = run("backend", *words)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"hopline: {text}")


def test_drain_and_undrain_are_one_change_each(run):
    served(run)
    assert run("backend", "drain", "web", ONE) == (0, "", "")
    assert backends(run)[0].drained
    assert json.loads(run("backend", "drain", "web", ONE, "--json")[1])["backends"][0]["state"] == "draining"
    assert run("backend", "undrain", "web", ONE) == (0, "", "")
    assert not backends(run)[0].drained


def test_a_drain_waits_until_no_flow_is_seen_for_a_minute(run, clock, left):
    served(run)
    found = left((3, 5, 100), (3, 5, 120), (1, 4, 121), (0, 4, 121))
    code, out, err = run("backend", "drain", "web", ONE, "--wait")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"web {ONE}: 3 flows seen, 5 remembered",
        f"web {ONE}: 1 flow seen, 4 remembered",
        f"web {ONE}: 0 flows seen, 4 remembered",
        f"web {ONE}: no flow seen for 60 s; 4 silent ones are remembered",
    ]
    assert clock.now == 1000 + 2 + 60
    # flows that were seen before it was drained do not count
    assert found.asked[:4] == [0, 1, 2, 3]
    assert found.asked[-1] == 60


def test_packets_of_flows_that_nobody_remembers_are_waited_for_too(run, clock, left):
    served(run)
    left(*((0, 0, count) for count in range(30)))
    assert run("backend", "drain", "web", ONE, "--wait")[0] == 0
    assert clock.now == 1000 + 29 + 60


def test_a_service_that_forgets_sooner_is_waited_for_as_long(run, clock, left):
    served(run, "--idle", "5")
    left((0, 0, 7))
    _, out, _ = run("backend", "drain", "web", ONE, "--wait")
    assert out.splitlines()[-1] == f"web {ONE}: no flow seen for 5 s"
    assert clock.now == 1005


def test_a_drain_that_takes_too_long_exits_with_1_and_stays(run, clock, left):
    served(run)
    left((2, 2, 1))
    code, out, err = run("backend", "drain", "web", ONE, "--wait", "--timeout", "2m")
    assert code == 1
    assert out == f"web {ONE}: 2 flows seen, 2 remembered\n"
    assert err == f"hopline: backend drain web {ONE}: after 120 s, 2 flows seen, 2 remembered: it stays drained\n"
    assert backends(run)[0].drained
    assert run("backend", "drain", "web", ONE, "--wait")[0] == 1
    assert clock.now == 1120 + 900
    left((0, 0, 1), *((0, 0, count) for count in range(9, 50)))
    code, out, err = run("backend", "drain", "web", ONE, "--wait", "--timeout", "3", "--json")
    assert (code, json.loads(out)["flows"]) == (1, 0)
    assert "but packets of flows that are not remembered" in err


def test_an_undrain_waits_until_it_takes_flows(run, clock):
    served(run)
    run("backend", "add", "web", SILENT)
    assert run("backend", "undrain", "web", ONE, "--wait") == (0, "", "")
    assert clock.now == 1000
    code, out, err = run("backend", "undrain", "web", SILENT, "--wait", "--timeout", "3")
    assert (code, out) == (1, "")
    assert err == (
        "hopline: backend undrain web 10.10.3.99: takes no flow yet: it is unresolved: no neighbour answers\n"
    )
    assert clock.now == 1003
