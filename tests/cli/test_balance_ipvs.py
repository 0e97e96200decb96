"""`hopline service import-ipvs`: all or nothing, or with --partial what can be expressed."""

import json

import pytest

GOOD = """\
-A -t 192.168.33.33:80 -s wrr
-a -t 192.168.33.33:80 -r 192.168.33.11:80 -i -w 1
-a -t 192.168.33.33:80 -r 192.168.33.12:80 -i -w 3
"""
BAD = GOOD + "-a -t 192.168.33.33:80 -r 192.168.33.13:80 -m -w 1\n-A -f 7 -s rr\n-a -f 7 -r 192.168.33.11 -i\n"


@pytest.fixture
def rules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "rules").write_text(text)
        return "rules"

    return write


def test_services_are_entered_in_one_change_and_it_is_said_what_becomes_of_the_scheduler(run, rules):
    code, out, err = run("service", "import-ipvs", rules(GOOD))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "rules:1: scheduler wrr becomes Maglev",
        "+ service tcp-192-168-33-33-80  vip 192.168.33.33  port 80  protocol tcp"
        "  backend 192.168.33.11, 192.168.33.12 (weight 3)",
        "service: 1 added",
        "change 1 is done",
    ]
    assert run("service", "import-ipvs", "rules")[1].splitlines()[-1] == "nothing to change: it is all there"
    rules(GOOD.replace("-w 3", "-w 2") + "-a -t 192.168.33.33:80 -r 192.168.33.14 -i\n")
    assert run("service", "import-ipvs", "rules")[1].splitlines()[1] == (
        "~ service tcp-192-168-33-33-80  backend + 192.168.33.14, ~ 192.168.33.12 weight 3 → 2"
    )


def test_what_cannot_be_expressed_is_listed_and_nothing_is_entered(run, rules):
    code, _, err = run("service", "import-ipvs", rules(BAD))
    assert code == 1
    assert err.splitlines() == [
        "hopline: rules:4: NAT (-m): Hopline reaches servers by tunnel (-i): left out",
        "hopline: rules:5: -f 7: services are told by address and port, not by firewall mark: left out, and its servers"
        " with it (line 6)",
        "hopline: service import-ipvs rules: 2 lines cannot be expressed: nothing was changed: use --partial to enter"
        " the rest",
    ]
    assert run.service.services_by_name == {}


def test_with_partial_the_rest_is_entered(run, rules):
    code, out, err = run("service", "import-ipvs", rules(BAD), "--partial")
    assert code == 0
    assert [line[:27] for line in err.splitlines()] == ["hopline: warning: rules:4: ", "hopline: warning: rules:5: "]
    assert out.splitlines()[-1] == "change 1 is done"
    (service,) = run.service.services_by_name.values()
    assert [one.address for one in service.backend] == ["192.168.33.11", "192.168.33.12"]


def test_json_has_all_that_is_said(run, rules):
    found = json.loads(run("service", "import-ipvs", rules(BAD), "--partial", "--json")[1])
    assert found["applied"]["counts"] == {"service": {"added": 1, "changed": 0, "removed": 0}}
    assert found["services"][0]["name"] == "tcp-192-168-33-33-80"
    assert [one["lines"] for one in found["lost"]] == [[4], [5, 6]]
    assert found["notes"] == [{"lines": [1], "text": "scheduler wrr becomes Maglev", "left_out": False}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "hopline: service import-ipvs rules: no service of ipvsadm in it: give what `ipvsadm -S -n` prints\n"),
        ("ipvsadm -C\n", "hopline: service import-ipvs rules: no service of ipvsadm in it"),
        ("-A -f 7\n", "hopline: rules:1: -f 7: services are told by address and port"),
        ("\x00\xff", "hopline: rules:1: "),
    ],
)
def test_a_file_without_services_is_refused(run, rules, text, says):
    code, out, err = run("service", "import-ipvs", rules(text))
    assert (code, out) == (1, "")
    assert err.startswith(says)


def test_rules_come_by_a_pipe_as_well(run, shell):
    done = shell(f"printf '%s' '{GOOD}' | $hopline service import-ipvs -")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("stdin:1: scheduler wrr becomes Maglev\n")


def test_what_another_service_has_is_refused_as_a_whole(run, rules):
    run("service", "add", "web", "--vip", "192.168.33.33", "--port", "80-81", "--protocol", "tcp")
    code, _, err = run("service", "import-ipvs", rules(GOOD))
    assert code == 1
    assert "overlap on 192.168.33.33" in err
    assert list(run.service.services_by_name) == ["web"]


def test_a_file_that_is_not_there_is_one_line(run):
    assert run("service", "import-ipvs", "none") == (1, "", "hopline: none: no such file or directory\n")
