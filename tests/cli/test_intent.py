"""apply, diff, export, history, rollback, confirm: what they print, ask, refuse, and their exit codes."""

import json
import os
import re
import subprocess
import sys

import pytest

from front_double import NEIGHBOUR_MAC
from hopline.config import Forward

BOTH = f"""
[[interface]]
name = "enp0s3"

[[forward]]
to = "10.10.3.0/24"
via = "10.10.3.5"

[[forward]]
to = "10.10.3.7"
dev = "enp0s9"
dst_mac = "{NEIGHBOUR_MAC}"
"""
ONE = """
[[forward]]  # the other is gone
to = "10.10.3.0/24"
via = "10.10.3.6"
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A function that writes a file here, so that a command names it without a directory."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="fw.toml"):
        (tmp_path / name).write_text(text)
        return name

    return write


def destinations(run):
    return sorted(run.service.entries)


def test_apply_shows_what_it_does_and_does_it(run, file):
    assert run("apply", file(BOTH)) == (
        0,
        "+ interface enp0s3\n"
        "+ forward 10.10.3.0/24  via 10.10.3.5\n"
        f"+ forward 10.10.3.7  dev enp0s9  dst_mac {NEIGHBOUR_MAC}\n"
        "interface: 1 added; forward: 2 added\n"
        "change 1 is done\n",
        "",
    )
    assert destinations(run) == ["10.10.3.0/24", "10.10.3.7"]
    assert run("apply", "fw.toml") == (0, "nothing to change: the intent is already what fw.toml says\n", "")
    assert len(run.service.past) == 1
    # what is done is bound to what was shown
    assert run.service.asked[1] == ("apply", False, False, None, 0, 0)


def test_nothing_is_removed_unasked(run, file, monkeypatch):
    run("apply", file(BOTH))
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    code, out, err = run("apply", file(ONE))
    assert code == 1
    assert out.splitlines() == [
        "~ forward 10.10.3.0/24  via 10.10.3.5 → 10.10.3.6",
        "- interface enp0s3",
        f"- forward 10.10.3.7  dev enp0s9  dst_mac {NEIGHBOUR_MAC}",
        "interface: 1 removed; forward: 1 changed, 1 removed",
    ]
    todo = "use --yes, or --merge to keep what it does not name"
    assert err == (f"hopline: apply fw.toml: 2 entries would be removed, and there is no terminal to ask on: {todo}\n")
    assert len(run.service.past) == 1
    code, out, err = run("apply", "fw.toml", "--merge")
    assert (code, out, err) == (
        0,
        "~ forward 10.10.3.0/24  via 10.10.3.5 → 10.10.3.6\nforward: 1 changed\nchange 2 is done\n",
        "",
    )
    assert run("apply", "fw.toml", "--merge")[1] == "nothing to change: the intent already has all that fw.toml says\n"
    assert run("apply", "fw.toml", "--yes")[0] == 0
    assert destinations(run) == ["10.10.3.0/24"]


def test_dry_run_changes_nothing(run, file):
    run("apply", file(BOTH))
    code, out, err = run("apply", file(ONE), "--dry-run")
    assert (code, err) == (0, "")
    assert out.endswith("interface: 1 removed; forward: 1 changed, 1 removed\ndry run: nothing was changed\n")
    said = json.loads(run("apply", "fw.toml", "--dry-run", "--json")[1])
    assert (said["dry_run"], said["counts"]["forward"]) == (True, {"added": 0, "changed": 1, "removed": 1})
    assert len(run.service.past) == 1


def test_json_says_what_was_done(run, file):
    done = json.loads(run("apply", file(BOTH), "--json")[1])
    assert (done["revision"], done["dry_run"]) == (1, False)
    assert [d["key"] for d in done["differences"]] == ["enp0s3", "10.10.3.0/24", "10.10.3.7"]
    assert json.loads(run("apply", "fw.toml", "--json")[1])["counts"] == {}
    assert json.loads(run("diff", "fw.toml", "--json")[1])["differences"] == []


def test_a_change_of_somebody_else_in_between_is_not_undone(run, file, monkeypatch):
    apply = run.service.apply

    async def slow(want, **options):
        done = await apply(want, **options)
        if options.get("dry_run"):
            await run.service.forward_put([Forward("10.9.9.9", via="10.10.3.5")], replace=False)
        return done

    monkeypatch.setattr(run.service, "apply", slow)
    code, _, err = run("apply", file(BOTH))
    assert code == 1
    assert "revision" in err
    assert err.count("\n") == 1
    assert destinations(run) == ["10.9.9.9"]


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_on_a_terminal_it_asks_before_it_removes(run, file, terminal, typed, code):
    run("apply", file(BOTH))
    shown, got = terminal(f"cd {os.getcwd()}; $hopline apply {file(ONE)}", typed)
    assert "remove 2 entries? [y/N] " in shown
    assert "\x1b[31m- interface enp0s3\x1b[0m" in shown
    assert got == code
    assert ("apply fw.toml: not confirmed: nothing was changed" in shown) is bool(code)
    assert destinations(run) == (["10.10.3.0/24", "10.10.3.7"] if code else ["10.10.3.0/24"])


def test_a_document_from_stdin_leaves_the_terminal_to_ask_on(run, file, terminal):
    run("apply", file(BOTH))
    shown, code = terminal(f"cd {os.getcwd()}; $hopline apply - < {file(ONE)}", "n\n")
    assert (code, "remove 2 entries? [y/N] " in shown) == (1, True)
    shown, code = terminal(f"cd {os.getcwd()}; $hopline apply - < fw.toml", "y\n")
    assert (code, destinations(run)) == (0, ["10.10.3.0/24"])


def test_without_a_terminal_a_document_from_stdin_is_refused_where_it_removes(run, file, shell):
    run("apply", file(BOTH))
    done = shell(f"cd {os.getcwd()}; setsid $hopline apply - < {file(ONE)}")
    assert done.returncode == 1
    assert "apply -: 2 entries would be removed, and there is no terminal to ask on: use --yes" in done.stderr
    done = shell(f"cd {os.getcwd()}; setsid $hopline apply --yes - < fw.toml")
    assert (done.returncode, destinations(run)) == (0, ["10.10.3.0/24"])


def test_diff_answers_by_its_exit_code(run, file):
    code, out, err = run("diff", file(BOTH))
    assert (code, err) == (1, "")
    assert out.splitlines()[-1] == "interface: 1 added; forward: 2 added"
    assert run.service.past == []
    run("apply", "fw.toml")
    assert run("diff", "fw.toml") == (0, "no difference\n", "")
    assert run("diff", file(ONE))[0] == 1
    run("apply", "fw.toml", "--merge")
    assert run("diff", "--merge", "fw.toml")[0] == 0
    assert run("diff", "fw.toml")[0] == 1


def test_whatever_stops_a_diff_is_exit_code_2(run, file, tmp_path, shell):
    file(BOTH)
    for arguments, text in (
        (["diff"], "missing argument"),
        (["diff", "fw.toml", "--what"], "no such option"),
        (["diff", "none.toml"], "none.toml: no such file or directory"),
        (["diff", str(tmp_path)], "is a directory"),
        (["diff", file("[[forward]\n", "broken.toml")], "broken.toml:1: "),
        (
            ["diff", file('[[forward]]\nto = "10.0.0.1"\nvia = "x"\n', "bad.toml")],
            "bad.toml:3: forward[0] (10.0.0.1): via",
        ),
        (["diff", "fw.toml", "--instance", "../x"], "cannot name an instance"),
        (["diff", "fw.toml", "--run", str(tmp_path / "nowhere")], "no daemon answers"),
    ):
        code, out, err = run(*arguments, here=str(tmp_path / "nowhere") not in arguments)
        assert (code, out) == (2, ""), arguments
        assert text in err
        assert err.count("\n") == 1
    assert shell(f"cd {os.getcwd()}; $hopline diff fw.toml > /dev/full").returncode == 2
    many = "".join(f'[[forward]]\nto = "10.1.{n >> 8}.{n & 255}"\nvia = "10.10.3.1"\n' for n in range(3000))
    done = shell(f"cd {os.getcwd()}; set -o pipefail; $hopline diff {file(many, 'many.toml')} | head -n 1")
    assert done.stdout.startswith("+ forward 10.1.0.0")
    assert done.stderr == ""


def test_what_is_exported_changes_nothing_when_applied(run, file):
    assert run("export")[0] == 0
    run("apply", file(BOTH))
    text = run("export")[1]
    assert 'name = "enp0s3"' in text
    assert "mode" not in text
    assert run("diff", file(text, "again.toml")) == (0, "no difference\n", "")
    said = run("export", "--json")[1]
    assert json.loads(said)["interface"] == [{"name": "enp0s3"}]
    assert json.loads(said)["forward"][0] == {"to": "10.10.3.0/24", "via": "10.10.3.5"}
    assert run("diff", file(said, "again.json")) == (0, "no difference\n", "")


def test_an_unconfirmed_change_is_announced(run, file):
    code, out, err = run("apply", file(BOTH), "--confirm-within", "1.5m")
    todo = f"`hopline confirm --run {run.directory}`"
    assert out.splitlines()[-1] == f"change 1 is done, and rolled back in 90 s unless {todo} comes first"
    assert [asked[3] for asked in run.service.asked] == [90, 90]
    assert "apply (to be confirmed)" in run("history")[1]
    code, _, err = run("apply", file(ONE), "--yes")
    assert (code, "waits to be confirmed" in err) == (1, True)
    assert run("confirm") == (0, "change 1 is confirmed: it stays\n", "")
    assert run("confirm")[0] == 1
    assert "confirmed" not in run("history")[1]
    run("apply", "fw.toml", "--yes", "--confirm-within", "2h")
    assert json.loads(run("confirm", "--json")[1]) == {"revision": 2}


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("5m", 300), ("1h", 3600), ("90", 90), ("0.5h", 1800)])
def test_a_span_of_time_in_the_words_of_an_operator(run, file, text, seconds):
    run("apply", file(BOTH), "--confirm-within", text)
    assert run.service.asked[-1][3] == seconds


def test_history_and_rollback(run, file):
    assert run("history")[1].split() == ["CHANGE", "WHEN", "WHAT", "ADDED", "CHANGED", "REMOVED", "BY"]
    run("apply", file(BOTH))
    run("forward", "add", "10.10.3.9", "--via", "10.10.3.5")
    rows = run("history")[1].splitlines()[1:]
    assert re.fullmatch(r" +2  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  forward add 10.10.3.9 +1 +0 +0  root .*", rows[0])
    assert re.fullmatch(r" +1  .*  apply +3 +0 +0  .*", rows[1])
    assert [row["number"] for row in json.loads(run("history", "--json")[1])] == [2, 1]
    code, out, err = run("rollback", "1", "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "- forward 10.10.3.9  via 10.10.3.5",
        "forward: 1 removed",
        "dry run: nothing was changed",
    ]
    assert run("rollback", "1") == (0, "- forward 10.10.3.9  via 10.10.3.5\nforward: 1 removed\nchange 3 is done\n", "")
    assert run("rollback", "1")[1] == "nothing to change: the intent is what it was after change 1\n"
    assert json.loads(run("rollback", "0", "--json")[1])["counts"]["interface"]["removed"] == 1
    code, out, err = run("rollback", "99")
    assert (code, out, err.count("\n")) == (1, "", 1)


WRONG = """
[[interface]]
name = "enp0s3"
mode = "fast"

[[forward]]
to = "10.0.0.5"
dev = "enp0s9"
dst_mac = "zz"

[[forward]]
to = "10.0.0.300"
via = "10.0.0.1"
"""


def test_each_wrong_value_is_a_line_and_the_last_one_sums_up(run, file):
    code, out, err = run("apply", file(WRONG))
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[0].startswith("hopline: fw.toml:4: interface[0] (enp0s3): mode: ")
    assert lines[1] == (
        "hopline: fw.toml:9: forward[0] (10.0.0.5): dst_mac: zz is not a MAC address: "
        "write six octets, as 08:00:27:f2:cb:f9"
    )
    assert lines[2].startswith("hopline: fw.toml:12: forward[1]: to: 10.0.0.300 is not an IP address: ")
    assert lines[3:] == ["hopline: apply fw.toml: 3 values are wrong: nothing was changed"]
    assert run("diff", "fw.toml")[2].splitlines()[-1] == "hopline: diff fw.toml: 3 values are wrong"
    assert run.service.asked == []


def test_of_many_wrong_values_twenty_are_told(run, file):
    text = "".join(f'[[forward]]\nto = "10.0.0.{n}"\nvia = "{"10.0.1.1" if n % 4 else "x"}"\n' for n in range(100))
    code, _, err = run("apply", file(text))
    lines = err.splitlines()
    assert (code, len(lines)) == (1, 21)
    assert lines[19].startswith("hopline: fw.toml:231: forward[76] (10.0.0.76): via: x is not an IP address")
    assert lines[20] == "hopline: apply fw.toml: 25 values are wrong, the first 20 are named: nothing was changed"


def test_one_wrong_value_is_one_line(run, file):
    code, _, err = run("apply", file('[[forwards]]\nto = "10.0.0.1"\n'))
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("hopline: fw.toml:1: ")


def test_what_the_daemon_finds_wrong_gets_its_line_too(run, file):
    text = f"""# entries
[[forward]]
to = "10.0.0.1"
via = "10.0.0.2"
[[forward]]
to = "10.0.0.5"
dst_mac = "{NEIGHBOUR_MAC}"
dev = "eth9"
"""
    for verb, code in (("apply", 1), ("diff", 2)):
        got, out, err = run(verb, file(text))
        assert (got, out) == (code, "")
        assert err.startswith("hopline: fw.toml:8: forward[1] (10.0.0.5): dev: eth9 is no device here")
        assert err.count("\n") == 1


def test_what_is_no_value_of_the_document_is_said_as_it_is(run, file):
    code, _, err = run("apply", file(BOTH), "--confirm-within", "999999h")
    assert code == 1
    assert err.startswith("hopline: confirm_within: ")


def test_a_broken_answer_of_the_terminal_s_character_set_is_no_fault(run, file):
    run("apply", file(BOTH))
    done = subprocess.run(
        [sys.executable, "-m", "hopline.cli.main", "--run", str(run.directory), "diff", file(ONE)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"via 10.10.3.5 \\u2192 10.10.3.6" in done.stdout


@pytest.mark.parametrize("verb", ["apply", "diff"])
@pytest.mark.parametrize(
    ("name", "text"),
    [("many.csv", "to,via\n10.50.0.1,10.10.3.1\n"), ("many.jsonl", '{"to": "10.50.0.1", "via": "10.10.3.1"}\n')],
)
def test_a_file_that_can_only_say_forwards_is_not_taken_as_if_no_interface_were_wanted(run, file, verb, name, text):
    code, out, err = run(verb, file(text, name))
    assert (code, out) == (2 if verb == "diff" else 1, "")
    assert err == (
        f"hopline: {verb} {name}: a file of this format cannot say which interfaces there are, and all would be "
        "removed: use --merge, or a TOML document\n"
    )
    code, out, err = run(verb, name, "--merge")
    assert (code, err) == (1 if verb == "diff" else 0, "")
    assert "+ forward 10.50.0.1  via 10.10.3.1\n" in out
