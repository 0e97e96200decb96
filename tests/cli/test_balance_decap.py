"""`hopline decap`: whose outer headers are taken off."""

import json

import pytest

LOCAL = ("--local", "10.10.3.1", "--from", "192.168.33.10/32")


def test_entries_are_added_shown_and_deleted(run):
    assert run("decap", "add", *LOCAL)[:2] == (0, "")
    code, out, err = run("decap", "add", "--local", "10.9.9.9", "--from", "any", "--encap", "gue", "--gue-port", "7000")
    assert (code, out) == (0, "")
    assert err == "hopline: warning: 10.9.9.9 is not an address of this host\n"
    assert run("decap")[1].splitlines() == [
        "LOCAL      FROM           ENCAP     PACKETS  BYTES  PROBLEM",
        "10.10.3.1  192.168.33.10  ipip            7    686  -",
        "10.9.9.9   any            gue:7000        7    686  -",
    ]
    assert run("decap", "show")[1] == run("decap", "ls")[1] == run("decap")[1]
    rows = json.loads(run("decap", "--json")[1])
    assert rows[0]["decap"] == {"local": "10.10.3.1", "from": "192.168.33.10", "encap": "ipip", "gue_port": 6080}
    assert run("decap", "add", *LOCAL)[2].startswith("hopline: decap 10.10.3.1 ipip from 192.168.33.10 exists")
    assert run("decap", "del", *LOCAL) == (0, "", "")
    assert run("decap", "rm", *LOCAL)[0] == 1
    assert run("decap", "del", "--local", "10.9.9.9", "--from", "any", "--encap", "gue") == (0, "", "")
    assert json.loads(run("decap", "add", *LOCAL, "--json")[1])["decap"]["from"] == "192.168.33.10"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["add", "--local", "10.10.3.1"], 2, "missing option '--from'"),
        (["del", "--from", "any"], 2, "missing option '--local'"),
        (["add", "--local", "10.10.3.1", "--from", "any", "--encap", "gre"], 2, "invalid value for '--encap'"),
        (["add", "--local", "10.10.3.1", "--from", "everybody"], 1, "from: everybody is not an IP address: give an"),
        (["add", "--local", "10.10.3.1", "--from", "2001:db8::/64"], 1, "from: 2001:db8::/64 is not IPv4"),
        (["add", "--local", "10.10.3.1", "--from", "any", "--gue-port", "7000"], 1, "gue_port: given with encap ipip"),
    ],
)
def test_what_cannot_be_right_is_one_line(run, words, code, text):
    done, out, err = run("decap", *words)
    assert (done, out, err.count("\n")) == (code, "", 1)
    assert err.startswith(f"hopline: {text}")
