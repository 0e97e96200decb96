"""forward load: many at once, from a file or a pipe, with a progress bar where somebody looks."""

import json
import os
import re

import pytest

HEADER = "to,via\n"


def many(count):
    return "".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255},10.10.3.1\n" for n in range(count))


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text, name="fw.csv"):
        (tmp_path / name).write_text(text)
        return name

    return write


def test_load_sums_up_in_a_line(run, file):
    code, out, err = run("forward", "load", file(HEADER + many(3000)))
    assert (code, err) == (0, "")
    assert re.fullmatch(r"3000 entries in \d+\.\d s: 3000 added, 0 changed: change 1 is done\n", out)
    assert len(run.service.entries) == 3000
    run("forward", "replace", "10.0.0.7", "--via", "10.10.3.2")
    assert ": 0 added, 1 changed: change 3 is done\n" in run("forward", "load", "fw.csv")[1]
    out = run("forward", "load", "fw.csv")[1]
    assert re.fullmatch(r"nothing to change: the intent already has all that fw.csv says \(\d+\.\d s\)\n", out)
    assert json.loads(run("forward", "load", "fw.csv", "--json")[1])["counts"] == {}
    assert run.service.asked[0][:2] == ("forward load", True)


def test_json_lines_by_name_by_option_and_from_stdin(run, file, shell):
    line = '{"to": "10.0.0.1", "via": "10.10.3.1"}\n'
    for name, options, command in (
        ("fw.jsonl", "", "$hopline forward load fw.jsonl"),
        ("fw.txt", "", "$hopline forward load fw.txt --format jsonl"),
        ("fw.txt", "", "$hopline forward load - < fw.txt"),
        ("fw.txt", "", "cat fw.txt | $hopline forward load - --format jsonl"),
    ):
        run.service.__init__()
        file(line, name)
        done = shell(f"cd {os.getcwd()}; {command} {options}")
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout.startswith("1 entry in "), command
        assert list(run.service.entries) == ["10.0.0.1"]


def test_a_terminal_sees_how_far_it_is_and_nobody_else(run, file, terminal, shell):
    file(HEADER + many(20_000))
    shown, code = terminal(f"cd {os.getcwd()}; $hopline forward load fw.csv")
    assert code == 0
    assert "sending fw.csv" in shown
    assert "entering" in shown
    assert "20000 entries in " in shown
    # stdout away: the bar is still for the terminal, and the sum is not
    shown, _ = terminal(f"cd {os.getcwd()}; cat fw.csv | $hopline forward load - > out")
    assert "sending -" in shown
    assert "nothing to change" not in shown
    assert shell(f"cd {os.getcwd()}; $hopline forward load fw.csv").stderr == ""


def test_wrong_values_are_told_with_their_lines(run, file):
    lines = many(100).splitlines()
    lines[10], lines[20] = "10.0.0.10,here", "10.0.0.300,10.10.3.1"
    code, out, err = run("forward", "load", file(HEADER + "\n".join(lines)))
    assert (code, out) == (1, "")
    assert [line[:60] for line in err.splitlines()] == [
        "hopline: fw.csv:12: forward[10] (10.0.0.10): via: here is no",
        "hopline: fw.csv:22: forward[20]: to: 10.0.0.300 is not an IP",
        "hopline: forward load fw.csv: 2 values are wrong: nothing wa",
    ]
    assert run.service.entries == {}
    code, _, err = run("forward", "load", file(HEADER + "10.0.0.1,here\n"))
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("hopline: fw.csv:2: forward[0] (10.0.0.1): via: here is not an IP address")
    lines = [f"10.0.{n >> 8}.{n & 255},x" for n in range(30)]
    err = run("forward", "load", file(HEADER + "\n".join(lines)))[2].splitlines()
    assert len(err) == 21
    assert err[20] == ("hopline: forward load fw.csv: 30 values are wrong, the first 20 are named: nothing was changed")


def test_hopeless_input_is_given_up_early(run, file):
    lines = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255},x" for n in range(50_000)]
    err = run("forward", "load", file(HEADER + "\n".join(lines)))[2].splitlines()
    assert err[20] == (
        "hopline: forward load fw.csv: more than 1000 values are wrong, the first 20 are named: nothing was changed"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["none.csv"], "hopline: none.csv: no such file or directory\n"),
        (["."], "hopline: .: is a directory\n"),
        (["strange.bin"], "hopline: strange.bin: format: neither CSV nor JSON lines by its name and beginning: say "),
        (["empty.csv"], "hopline: empty.csv"),
        (["columns.csv"], "hopline: columns.csv:1: "),
    ],
)
def test_what_cannot_be_loaded_is_one_line(run, file, arguments, text):
    file("\x01\x02", "strange.bin")
    file("", "empty.csv")
    file("to,way\n10.0.0.1,10.0.0.2\n", "columns.csv")
    code, out, err = run("forward", "load", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(text)
    assert err.count("\n") == 1
