"""The command line: its grammar, what it prints, its exit codes, and that errors are one line."""

import asyncio
import json
import os
import subprocess
import sys
import time

import msgspec
import pytest

from front_double import NEIGHBOUR_MAC, OWN_MAC
from hopline.daemon.protocol import PendingState


def process(*arguments, **options):
    command = [sys.executable, "-m", "hopline.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["forward", "add", "-h"], ["service", "add", "-h"], ["backend", "-h"], ["doctor", "-h"], ["lab"]],
)
def test_help_loads_nothing_heavy(arguments):
    heavy = ["numpy", "rich", "pyroute2", "starlette", "uvicorn", "http", "msgspec", "hopline.client", "hopline.kernel"]
    code = (
        "import sys; from hopline.cli.main import main; code = main(sys.argv[1:]);"
        f"print(code, [name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("Usage: ")
    assert done.stderr.strip() == "0 []"


def test_help_lists_every_command():
    out = process("--help").stdout
    for name in ("serve", "status", "doctor", "detach", "interface", "forward", "service", "backend", "decap", "lab"):
        assert f"\n  {name} " in out
    for name in ("apply", "diff", "export", "history", "rollback", "confirm", "upgrade"):
        assert f"\n  {name} " in out
    for verb in ("add", "replace", "del", "show", "get", "flush", "load"):
        assert f"\n  {verb} " in process("forward", "--help").stdout
    for hidden in ("list", "delete"):
        assert f"\n  {hidden} " not in process("forward", "--help").stdout
    assert process("--version").stdout == "hopline 0.1.0\n"


def test_forward_add_replace_show_del(run):
    assert run("forward", "add", "10.10.3.5", "--dev", "enp0s9", "--dst-mac", NEIGHBOUR_MAC) == (0, "", "")
    code, out, err = run("forward", "add", "10.10.3.5", "--via", "10.10.3.1")
    assert (code, out, err) == (1, "", "hopline: forward 10.10.3.5 exists: use replace\n")
    assert run("forward", "replace", "10.10.3.0/24", "--via", "10.10.3.1", "--dev", "enp0s9")[0] == 0
    code, out, err = run("forward", "show")
    lines = out.splitlines()
    assert lines[0].split() == ["DESTINATION", "DEV", "SRC-MAC", "DST-MAC", "ORIGIN", "FRESH"]
    assert lines[2].split() == ["10.10.3.5", "enp0s9", OWN_MAC, NEIGHBOUR_MAC, "operator", "always"]
    assert len(lines) == 4
    assert [row["to"] for row in json.loads(run("forward", "show", "10.10.3.5", "--json")[1])] == ["10.10.3.5"]
    assert len(json.loads(run("forward", "show", "--origin", "learned", "--limit", "1", "--json")[1])) == 1
    assert run("forward", "del", "10.10.3.5") == (0, "", "")
    assert run("forward", "del", "10.10.3.5") == (1, "", "hopline: forward 10.10.3.5: no such entry\n")


def test_entries_are_shown_in_order(run):
    for to in ("10.10.30.0/24", "10.10.3.0/24", "10.10.3.5", "2001:db8::/32"):
        run("forward", "add", to, "--via", "2001:db8::1" if ":" in to else "10.10.3.1")
    rows = [(row["origin"], row["to"]) for row in json.loads(run("forward", "show", "--json")[1])]
    operator = [to for origin, to in rows if origin == "operator"]
    assert operator == ["10.10.3.0/24", "10.10.3.5", "10.10.30.0/24", "2001:db8::/32"]
    assert [origin for origin, _ in rows] == sorted((origin for origin, _ in rows), reverse=True)


def test_next_hops_get_flush(run):
    code, out, _ = run("forward", "show", "--next-hops")
    header, row = out.splitlines()
    assert header.split() == ["DEV", "SRC-MAC", "DST-MAC", "MTU", "ENTRIES", "PACKETS", "BYTES"]
    assert row.split() == ["enp0s9", OWN_MAC, NEIGHBOUR_MAC, "1500", "1", "7", "686"]
    assert json.loads(run("forward", "--next-hops", "--json")[1])[0]["bytes"] == 686
    code, out, _ = run("forward", "get", "10.10.3.5", "--in", "enp0s3")
    assert code == 0
    assert out.splitlines() == [
        f"10.10.3.5 dev enp0s9 src-mac {OWN_MAC} dst-mac {NEIGHBOUR_MAC} mtu 1500 origin operator"
        " entry 10.10.3.0/24 verdict FORWARDED",
        "    in by enp0s3",
        "    operator prefix 10.10.3.0/24",
    ]
    assert run("forward", "flush", "--origin", "learned") == (0, "1 learned entry forgotten\n", "")
    assert json.loads(run("forward", "flush", "--origin", "learned", "--json")[1]) == {"changed": 0}


def test_interface_verbs(run):
    code, out, err = run("interface", "add", "enp0s3", "--mode", "generic")
    assert (code, out) == (0, "enp0s3: attached, generic mode, learning ipv4 only\n")
    assert err.startswith("hopline: warning: peer without GRO")
    assert err.splitlines()[1].startswith("hopline: warning: enp0s3: not learning ipv6: forwarding is off: ")
    assert run("interface", "add", "enp0s3")[0] == 1
    assert run("interface", "add", "enp0s3", "--replace", "--bypass-policy", "--json")[0] == 0
    assert json.loads(run("interface", "set", "enp0s3", "--no-bypass-policy", "--json")[1])["interface"] == {
        "name": "enp0s3",
        "mode": "auto",
        "bypass_policy": False,
    }
    assert run("interface", "set", "enp0s3")[0] == 2
    _, out, _ = run("interface")
    assert out.splitlines()[0].split() == ["DEV", "INDEX", "MODE", "PROGRAM", "STEPS", "LEARNING", "STATE"]
    assert "hopline/39" in out
    assert json.loads(run("interface", "show", "enp0s3", "--json")[1])[0]["name"] == "enp0s3"
    assert run("interface", "del", "enp0s3") == (0, "", "")
    assert run("interface", "show", "enp0s3")[0] == 1


def test_status_tells_all_it_is_asked_for(run):
    run("interface", "add", "enp0s3")
    code, out, err = run("status")
    assert (code, err) == (0, "")
    for text in (
        "instance main: hopline 0.1.0, process 4711, up 1 h 2 min",
        "lease 900 ms",
        "enp0s3: native mode, program hopline (id 39, tag 24c0c136d96b2e7e), steps parse forward",
        "learning ipv4 only",
        "because ipv6: forwarding is off",
        "    VERDICT    PACKETS  BYTES\n    FORWARDED        7    686\n",
    ):
        assert text in out
    assert "PASS_LOCAL" not in out
    assert json.loads(run("status", "--json")[1])["interfaces"][0]["verdicts"]["PASS_LOCAL"] == {
        "packets": 0,
        "bytes": 0,
    }


def test_status_tells_what_waits_and_what_was_repaired(run, monkeypatch):
    plain = asyncio.run(run.service.status())
    assert "\n    intent: change 0\n" in run("status")[1]

    async def status():
        more = {"revision": 9, "pending": PendingState(9, 41.6), "repairs": {"entries": 2, "devices": 0, "programs": 1}}
        return msgspec.structs.replace(plain, **more)

    monkeypatch.setattr(run.service, "status", status)
    out = run("status")[1]
    assert "\n    intent: change 9; drift repaired: 2 entries, 1 programs\n" in out
    todo = f"`hopline confirm --run {run.directory}` keeps it"
    assert f"\n    change 9 waits to be confirmed and is rolled back in 42 s: {todo}\n" in out
    assert json.loads(run("status", "--json")[1])["pending"] == {"revision": 9, "left_s": 41.6}


@pytest.mark.parametrize("verb", ["", "show", "list", "ls"])
def test_a_bare_noun_and_its_aliases_show(run, verb):
    assert "10.10.2.7" in run("forward", *verb.split())[1]
    assert json.loads(run("forward", *verb.split(), "--json")[1])[0]["to"] == "10.10.2.7"
    assert run("interface", *verb.split())[0] == 0


@pytest.mark.parametrize("verb", ["del", "delete", "rm"])
def test_the_ways_to_delete(run, verb):
    run("forward", "add", "10.10.3.5", "--via", "10.10.3.1")
    assert run("forward", verb, "10.10.3.5")[0] == 0
    assert run.service.entries == {}


def test_the_instance_goes_before_or_after_the_verb(run):
    for arguments in (
        ["--instance", "other", "status"],
        ["status", "--instance", "other"],
        ["forward", "--instance", "other"],
        ["forward", "--instance=other", "show"],
        ["forward", "show", "--instance", "other"],
        ["--instance", "other", "forward", "show", "--instance", "other"],
    ):
        code, out, err = run(*arguments, here=False)
        assert (code, out) == (1, "")
        path = "/run/hopline/other/admin.sock"
        start = "start it with `hopline serve --instance other`"
        assert err == f"hopline: instance other: no daemon answers on {path}: {start}\n"
    assert run("--instance", "a", "status", "--instance", "b")[0] == 2
    assert run("status", "--instance", "../x", here=False)[0] == 1
    where = str(run.directory)
    assert run("forward", "--run", where, here=False)[0] == run("status", "--run", where, here=False)[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["forward", "nothing"],
        ["forward", "add"],
        ["forward", "add", "10.0.0.1"],
        ["forward", "add", "10.0.0.1", "--dev", "a"],
        ["forward", "add", "10.0.0.1", "--dst-mac", NEIGHBOUR_MAC],
        ["forward", "add", "10.0.0.1", "--via", "10.0.0.2", "--dst-mac", NEIGHBOUR_MAC],
        ["forward", "add", "10.0.0.1", "--via"],
        ["forward", "show", "--limit", "0"],
        ["forward", "show", "--limit", "many"],
        ["forward", "show", "--origin", "both"],
        ["forward", "show", "10.0.0.1", "--next-hops"],
        ["forward", "flush"],
        ["forward", "flush", "--origin", "operator"],
        ["forward", "get"],
        ["interface", "add", "enp0s3", "--mode", "fast"],
        ["interface", "--colour"],
        ["status", "extra"],
        ["serve", "--cache-size", "big"],
        ["completion", "tcsh"],
        ["apply"],
        ["apply", "a", "b"],
        ["apply", "a", "--confirm-within", "soon"],
        ["apply", "a", "--confirm-within", "0s"],
        ["apply", "a", "--confirm-within", "-5"],
        ["diff"],
        ["diff", "a", "--yes"],
        ["rollback"],
        ["rollback", "-1"],
        ["rollback", "last"],
        ["forward", "load"],
        ["forward", "load", "a", "--format", "xml"],
        ["history", "5"],
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("hopline: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["forward", "add", "10.0.0.7/24", "--via", "10.0.0.1"], "write 10.0.0.0/24"),
        (["forward", "add", "::ffff:1.2.3.4", "--via", "10.0.0.1"], "write 1.2.3.4"),
        (["forward", "add", "10.0.0.1", "--dev", "a", "--dst-mac", "01:00:5e:00:00:01"], "multicast"),
        (["forward", "add", "10.0.0.1\n\n", "--via", "10.0.0.1"], "not an IP address"),
        (["forward", "get", "here"], "not an IP address"),
        (["interface", "add", "eth7"], "no such device"),
        (["interface", "add", "a/b"], "no device name has"),
        (["serve", "--instance", "a/b"], "cannot name an instance"),
        (["serve", "--fwd-api", "0.0.0.0:5555"], "--fwd-api-allow"),
        (["serve", "--fwd-api", "5555"], "ADDR:PORT"),
        (["serve", "--cache-size", "1"], "out of range"),
    ],
)
def test_what_is_refused_is_exit_code_1_and_one_line(run, arguments, text):
    code, out, err = run(*arguments, here=arguments[0] != "serve")
    assert (code, out) == (1, "")
    assert text in err
    assert err.startswith("hopline: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["forwrd"], "no such command 'forwrd': see `hopline --help`"),
        (["forward", "flush"], "missing option '--origin': choose from: learned: see `hopline forward flush --help`"),
        (["forward", "get"], "missing argument 'ADDR': see `hopline forward get --help`"),
        (["status", "--bogus"], "no such option '--bogus': see `hopline status --help`"),
        (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish': see `hopline completion --help`"),
    ],
)
def test_wrong_usage_is_one_chain_that_ends_in_what_to_do(run, arguments, text):
    err = run(*arguments, here=False)[2]
    assert err.endswith(f"{text}\n")
    assert "." not in err


def test_a_fault_of_our_own_is_still_one_line(run, monkeypatch):
    from hopline import client

    def broken(*_, **__):
        raise ZeroDivisionError("a\nbug")

    monkeypatch.delenv("HOPLINE_DEBUG", raising=False)
    monkeypatch.setattr(client, "connect", broken)
    code, out, err = run("status")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "fault of hopline's own (ZeroDivisionError" in err
    monkeypatch.setattr(client, "connect", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("status")[:2] == (130, "")


def test_a_reader_that_goes_away_is_not_an_error(run):
    command = f"{sys.executable} -m hopline.cli.main forward show --run {run.directory} --json | true"
    run.service.learned *= 100_000
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_a_full_disk_is_one_line(run):
    said = (
        "hopline: write to stdout: no space left on device: what the command did stays done, only its answer is lost\n"
    )
    for buffered in ("", "PYTHONUNBUFFERED=1 "):
        command = f"{buffered}{sys.executable} -m hopline.cli.main status --run {run.directory} > /dev/full"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_nobodys_fault(run, closed):
    """What would be said there goes nowhere, and no socket or file takes its number."""
    command = f"{sys.executable} -m hopline.cli.main status --run {run.directory} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (closed == "2>&-")


def test_a_terminal_gets_the_same_columns(run, tmp_path):
    run("forward", "add", "2001:db8::5", "--via", "2001:db8::1")
    for columns, wide in ((200, True), (40, False)):
        command = f"stty cols {columns}; {sys.executable} -m hopline.cli.main forward show --run {run.directory}"
        log = tmp_path / "log"
        env = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
        subprocess.run(["script", "-qec", command, str(log)], capture_output=True, timeout=60, env=env)
        text = log.read_text()
        for word in ("DESTINATION", "2001:db8::5", "10.10.2.7", NEIGHBOUR_MAC):
            assert word in text
        assert ("\x1b[1m" in text) is wide


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    assert "_HOPLINE_COMPLETE" in process("completion", shell).stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hopline fo", "forward"),
        ("hopline forward re", "replace"),
        ("hopline forward add 10.0.0.1 --dev l", "lo"),
        ("hopline --run RUN forward del 10.10.", "10.10.3.5"),
        ("hopline --run RUN interface set enp", "enp0s3"),
        ("hopline forward show --or", "--origin"),
        ("hopline ap", "apply"),
        ("hopline forward lo", "load"),
        ("hopline --run RUN rollback 2", "2"),
    ],
)
def test_completion_of_words(run, line, expected):
    run("forward", "add", "10.10.3.5", "--via", "10.10.3.1")
    run("interface", "add", "enp0s3")
    words = line.replace("RUN", str(run.directory))
    env = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_HOPLINE_COMPLETE": "bash_complete"}
    done = process(env={**os.environ, **env})
    assert f"plain,{expected}" in done.stdout.split(), done


def test_detach_goes_to_the_daemon_or_to_the_host(run, monkeypatch, tmp_path):
    assert run("detach") == (0, "", "")
    assert run.service.detached
    import types

    asked = []
    monkeypatch.setitem(sys.modules, "hopline.host.detach", types.SimpleNamespace(detach=asked.append))
    assert run("detach", "--run", str(tmp_path / "none"), "--instance", "lab", here=False) == (0, "", "")
    assert asked == ["lab"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give it up")
def test_serve_without_rights_is_one_line(tmp_path):
    command = f"""
import os, sys
import hopline.cli.serve, hopline.daemon.main  # while they can be read
from hopline.cli.main import main
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main(["serve", "--state", {str(tmp_path)!r}, "--run", {str(tmp_path)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "run it as root" in done.stderr


def test_what_only_root_may_says_so(run, monkeypatch):
    from hopline import client

    def forbidden(*_, **__):
        raise PermissionError(13, "", "/somewhere")

    monkeypatch.setattr(client, "connect", forbidden)
    assert run("status") == (1, "", "hopline: /somewhere: permission denied: do this as root\n")


def test_help_is_quick():
    best = 10.0
    for _ in range(3):
        began = time.monotonic()
        process("--help")
        best = min(best, time.monotonic() - began)
    assert best < 2.0  # a guard against a heavy import; the benchmark has the figure
