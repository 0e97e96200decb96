import io
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hopline.errors import HoplineError
from hopline.lab import forward, instance_name
from hopline.lab.forward import TOPOLOGY
from hopline.lab.service import PINS, RUN, is_daemon
from hopline.lab.shell import hopline_command, namespaces

NAMES = set(TOPOLOGY.namespace_names())
INSTANCE = instance_name("forward")
STORY_SECONDS = 60


def hopline(*arguments):
    command = [hopline_command(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=STORY_SECONDS, check=False)


def daemons():
    return [
        int(each.name)
        for each in Path("/proc").iterdir()
        if each.name.isdigit() and is_daemon(int(each.name), INSTANCE)
    ]


def remains():
    """Whatever a lab may leave on this machine."""
    files = [path for path in (PINS / INSTANCE, RUN / INSTANCE, RUN / "lab/forward") if path.exists()]
    return [*(NAMES & namespaces()), *daemons(), *files]


@pytest.fixture(autouse=True)
def _lab_down():
    hopline("lab", "down")
    yield
    hopline("lab", "down")


def test_the_whole_story_is_as_expected_and_leaves_nothing_behind():
    begun = time.monotonic()
    told = hopline("lab", "forward")
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stderr == ""
    assert time.monotonic() - begun < 40
    for step in range(1, 7):
        assert f"\n{step}. " in told.stdout
    assert "as expected" in told.stdout
    assert "DIFFERS" not in told.stdout
    assert remains() == []


def test_keep_leaves_a_lab_that_answers_and_down_removes_it_twice_over():
    told = hopline("lab", "forward", "--keep")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "hopline lab down" in told.stdout
    assert namespaces() >= NAMES
    assert len(daemons()) == 1
    assert hopline("status", "--instance", INSTANCE).returncode == 0
    assert hopline("lab", "down").returncode == 0
    assert remains() == []
    assert hopline("lab", "down").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_story_that_is_interrupted_with_its_daemon_running_cleans_up(number):
    # whoever runs the tests in the background has them ignore an interrupt
    command = ["env", f"--default-signal={number.name}", hopline_command(), "lab", "forward"]
    story = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(daemons)
    story.send_signal(number)
    assert story.wait(30) != 0
    assert remains() == []


def test_a_story_that_was_killed_is_cleaned_up_by_down():
    story = subprocess.Popen(
        [hopline_command(), "lab", "forward"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(daemons)
    story.kill()
    story.wait(10)
    assert namespaces() >= NAMES
    assert hopline("lab", "down").returncode == 0
    assert remains() == []


def test_a_second_story_at_the_same_time_is_refused_and_does_no_harm():
    story = subprocess.Popen(
        [hopline_command(), "lab", "forward"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: namespaces() >= NAMES)
    second = hopline("lab", "forward")
    assert second.returncode == 1
    assert f"in use by process {story.pid}" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert namespaces() >= NAMES
    story.terminate()
    story.wait(30)


def test_a_step_that_shows_something_else_makes_the_story_fail(monkeypatch):
    # without step 2 no request ever reaches C, which step 4 expects
    monkeypatch.setattr(forward, "STEPS", (forward.unreachable, forward.server_link_down))
    out = io.StringIO()
    assert forward.run(out=out) == 1
    assert "DIFFERS" in out.getvalue()
    assert "steps that differ: 2" in out.getvalue()
    assert remains() == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_story_that_breaks_off_cleans_up_even_with_keep(monkeypatch, keep):
    def breaks(play, node):
        node.serve()
        raise HoplineError("it broke")

    monkeypatch.setattr(forward, "STEPS", (breaks,))
    with pytest.raises(HoplineError, match="it broke"):
        forward.run(keep, out=io.StringIO())
    assert remains() == []


def test_a_foreign_namespace_of_the_same_name_is_left_alone():
    subprocess.run(["ip", "netns", "add", "hl-gw"], check=True)
    try:
        told = hopline("lab", "forward")
        assert told.returncode == 1
        assert "namespace hl-gw exists and is not the lab's" in told.stderr
        assert "hl-gw" in namespaces()
    finally:
        subprocess.run(["ip", "netns", "delete", "hl-gw"], check=True)


def test_without_tools_one_line_names_their_packages(tmp_path):
    (tmp_path / "ip").symlink_to("/bin/true")
    command = [hopline_command(), "lab", "forward"]
    # the administrator's directories are searched as well, so only tools of /usr/bin can be hidden
    told = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PATH": str(tmp_path)}, check=False
    )
    assert told.returncode == 1
    assert len(told.stderr.splitlines()) == 1
    assert "apt install" in told.stderr
    assert "tcpdump" in told.stderr


def test_without_root_one_line_says_so():
    command = ["setpriv", "--reuid", "65534", "--clear-groups", hopline_command(), "lab", "forward"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr.splitlines() == [told.stderr.strip()]
    assert "needs root" in told.stderr or "need root" in told.stderr


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)
