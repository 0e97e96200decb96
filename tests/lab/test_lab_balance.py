import io
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hopline.errors import HoplineError
from hopline.lab import balance, instance_name, servers
from hopline.lab.balance import TOPOLOGY
from hopline.lab.service import PINS, RUN, is_daemon
from hopline.lab.shell import hopline_command, namespaces

NAMES = set(TOPOLOGY.namespace_names())
INSTANCE = instance_name("balance")
INSTANCES = [INSTANCE, *(f"{INSTANCE}-{host}" for host in balance.SERVERS)]
STORY_SECONDS = 150
MOST_SECONDS = 90


def hopline(*arguments):
    command = [hopline_command(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=STORY_SECONDS, check=False)


def daemons():
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [pid for pid in pids if any(is_daemon(pid, instance) for instance in INSTANCES)]


def page_servers():
    """Web servers and downloads of the lab, by the addresses and files in their commands."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            words = (each / "cmdline").read_bytes().decode(errors="replace") if each.name.isdigit() else ""
        except OSError:
            continue
        found += [int(each.name)] if "/run/hopline/lab/balance" in words and "serve\0" not in words else []
    return found


def remains():
    """Whatever a lab may leave on this machine."""
    places = [RUN / "lab/balance", *(place / instance for place in (PINS, RUN) for instance in INSTANCES)]
    return [*(NAMES & namespaces()), *daemons(), *page_servers(), *(path for path in places if path.exists())]


@pytest.fixture(autouse=True)
def _lab_down():
    hopline("lab", "down")
    yield
    hopline("lab", "down")


@pytest.mark.timeout(STORY_SECONDS + 30)
def test_the_whole_story_is_as_expected_and_leaves_nothing_behind():
    begun = time.monotonic()
    told = hopline("lab", "balance")
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stderr == ""
    assert time.monotonic() - begun < MOST_SECONDS
    for step in range(1, len(balance.STEPS) + 2):
        assert f"\n{step}. " in told.stdout
    assert "as expected" in told.stdout
    assert "DIFFERS" not in told.stdout
    assert remains() == []


@pytest.mark.slow
def test_keep_leaves_a_lab_that_answers_and_down_removes_it_twice_over(monkeypatch):
    monkeypatch.setattr(balance, "STEPS", (balance.nobody, balance.decaps, balance.balanced))
    out = io.StringIO()
    assert balance.run(keep=True, out=out) == 0, out.getvalue()
    assert "hopline lab down" in out.getvalue()
    assert namespaces() >= NAMES
    assert len(daemons()) == len(INSTANCES)
    assert hopline("service", "show", "--instance", INSTANCE).returncode == 0
    assert hopline("lab", "down").returncode == 0
    assert remains() == []
    assert hopline("lab", "down").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_story_that_is_cut_short_is_cleaned_up_by_itself_or_by_down(number):
    # whoever runs the tests in the background has them ignore an interrupt
    command = ["env", "--default-signal=INT", hopline_command(), "lab", "balance"]
    story = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(daemons)
    story.send_signal(number)
    assert story.wait(30) != 0
    if number == signal.SIGKILL:
        assert namespaces() >= NAMES
        assert page_servers() != []
        assert hopline("lab", "down").returncode == 0
    assert remains() == []


def test_a_server_that_does_not_answer_makes_the_story_fail(monkeypatch):
    monkeypatch.setattr(servers.RealServer, "serve_pages", serve_pages_but_for_one(servers.RealServer.serve_pages))
    monkeypatch.setattr(balance, "STEPS", (balance.nobody, balance.decaps, balance.balanced))
    monkeypatch.setattr(balance, "SETTLE_SECONDS", 3.0)
    out = io.StringIO()
    assert balance.run(out=out) == 1
    assert "DIFFERS" in out.getvalue()
    assert "steps that differ: 3" in out.getvalue()
    assert remains() == []


def serve_pages_but_for_one(serve_pages):
    return lambda server: None if server.host == "rs2" else serve_pages(server)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_a_story_that_breaks_off_cleans_up_even_with_keep(monkeypatch, keep):
    def breaks(cast):
        balance.nobody(cast)
        cast.node.serve()
        raise HoplineError("it broke")

    monkeypatch.setattr(balance, "STEPS", (breaks,))
    with pytest.raises(HoplineError, match="it broke"):
        balance.run(keep, out=io.StringIO())
    assert remains() == []


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)
