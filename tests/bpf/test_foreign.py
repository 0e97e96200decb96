"""Programs of others, taken over by a process that may not open them: what is lent, refused and put back."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from bpf.fixtures import compiled
from hopline.errors import NotFound
from hopline.kernel import BpfObject, XdpLink, bpffs, foreign, netns, query
from hopline.kernel._libbpf import lib
from hopline.kernel.program import Program

FLAGS = {"native": 4, "generic": 2}

# takes an interface over without CAP_SYS_ADMIN, as a daemon would, and tells what it knew and what became of it
TAKE = """
import json, sys
from pathlib import Path
from hopline.errors import HoplineError
from hopline.kernel import BpfObject, capability, netns
from hopline.kernel.foreign import identify, replace_foreign

path, directory, namespace, index, mode = sys.argv[1:]
told = {}

def take():
    with BpfObject.open(path) as opened:
        opened.set_rodata(answer=2)
        opened.only("pipe")
        opened.load()
        capability.give_up()
        told["named"] = identify(int(index), Path(directory)).known_as
        try:
            link = replace_foreign(int(index), opened.program("pipe"), mode, Path(directory))
            told["ours"] = link.program_id
            link.pin(Path(directory) / "ours")
        except HoplineError as error:
            told["error"] = f"{type(error).__name__}: {error}"

netns.run_in(namespace, take)
print(json.dumps(told))
"""


@pytest.fixture
def directory():
    made = bpffs.instance_dir(f"hl-test-{os.getpid()}")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def strangers():
    with BpfObject.open(compiled("pipe")) as opened:
        opened.set_rodata(answer=2)
        opened.only("pipe", "other")
        opened.load()
        yield opened


@contextlib.contextmanager
def occupied(program, namespace, index, how, mode):
    """The program is on the interface, held by a link of ours or by netlink."""
    link = None
    if how == "link":
        link = netns.run_in(namespace, XdpLink.attach, program, index, mode)
    else:
        assert netns.run_in(namespace, lib.hl_xdp_attach, index, program.fd, FLAGS[mode]) == 0
    yield
    if link is not None:
        link.close()


def take(namespace, index, directory, mode="auto") -> dict:
    command = [sys.executable, "-c", TAKE, str(compiled("pipe")), str(directory), namespace, str(index), mode]
    made = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def lend(namespace, index, directory, link=True):
    return netns.run_in(namespace, foreign.lend, index, directory, link=link)


@pytest.mark.parametrize("how", ["link", "netlink"])
@pytest.mark.parametrize("old_mode", ["native", "generic"])
@pytest.mark.parametrize("new_mode", ["native", "generic"])
def test_what_is_lent_is_named_and_taken_over(pair, directory, strangers, how, old_mode, new_mode):
    other = strangers.program("other")
    with occupied(other, pair.namespace, pair.left_index, how, old_mode):
        pins = lend(pair.namespace, pair.left_index, directory)
        assert len(pins) == (2 if how == "link" else 1)
        told = take(pair.namespace, pair.left_index, directory, new_mode)
        assert told["named"] == f"id {other.id}, other"
        found = netns.run_in(pair.namespace, query, pair.left_index)
        assert (found.program_id, found.name, found.mode) == (told["ours"], "pipe", new_mode)


@pytest.mark.parametrize("how", ["link", "netlink"])
def test_what_is_not_lent_stays_and_the_refusal_says_what_to_do(pair, directory, strangers, how):
    other = strangers.program("other")
    with occupied(other, pair.namespace, pair.left_index, how, "native"):
        told = take(pair.namespace, pair.left_index, directory)
        assert told["named"] == f"id {other.id}"
        assert told["error"] == (
            f"Refused: replace xdp program {other.id} of left0: without CAP_SYS_ADMIN it could not be put back if the "
            "other fails: run `hopline interface add left0 --replace` as root on this host, or unload it first"
        )
        assert netns.run_in(pair.namespace, query, pair.left_index).program_id == other.id


def test_a_link_that_is_not_lent_stays(pair, directory, strangers):
    other = strangers.program("other")
    with occupied(other, pair.namespace, pair.left_index, "link", "native"):
        lend(pair.namespace, pair.left_index, directory, link=False)
        told = take(pair.namespace, pair.left_index, directory)
        assert told["error"].startswith(f"Refused: detach xdp program (id {other.id}, other) from left0: links (none)")
        assert netns.run_in(pair.namespace, query, pair.left_index).program_id == other.id


def test_what_was_lent_for_another_interface_or_program_is_of_no_use(pair, directory, strangers):
    other, third = strangers.program("other"), strangers.program("pipe")
    with occupied(other, pair.namespace, pair.left_index, "netlink", "native"):
        lend(pair.namespace, pair.left_index, directory)
        with occupied(third, pair.namespace, pair.right_index, "netlink", "native"):
            assert take(pair.namespace, pair.right_index, directory)["named"] == f"id {third.id}"
        # and the program has been changed since
        assert netns.run_in(pair.namespace, lib.hl_xdp_attach, pair.left_index, third.fd, FLAGS["native"]) == 0
        told = take(pair.namespace, pair.left_index, directory)
        assert (told["named"], told["error"].partition(":")[0]) == (f"id {third.id}", "Refused")


@pytest.mark.parametrize("how", ["link", "netlink"])
def test_a_take_over_that_fails_puts_back_what_was_lent(pair, directory, strangers, how):
    other = strangers.program("other")
    with occupied(other, pair.namespace, 1, how, "generic"):  # lo: ours cannot go native there
        lend(pair.namespace, 1, directory)
        told = take(pair.namespace, 1, directory, "native")
        assert told["error"].startswith("KernelError: attach xdp pipe to lo: operation not supported (errno 95): ")
        assert told["error"].endswith(f"the program it had (id {other.id}, other) is attached again")
        assert netns.run_in(pair.namespace, query, 1).program_id == other.id


def test_nothing_is_lent_where_nothing_is(pair, directory):
    assert lend(pair.namespace, pair.left_index, directory) == []
    assert list(directory.iterdir()) == []


def test_what_somebody_lent_and_never_took_back_goes_with_the_next(pair, directory, strangers, monkeypatch):
    other = strangers.program("other")
    with occupied(other, pair.namespace, pair.left_index, "link", "native"):
        old = lend(pair.namespace, pair.left_index, directory)
        new = lend(pair.namespace, pair.left_index, directory)
        assert sorted(directory.iterdir()) == sorted([*old, *new])
        monkeypatch.setattr(foreign, "LENT_AT_MOST_S", 0.0)
        time.sleep(0.05)
        last = lend(pair.namespace, pair.left_index, directory)
        assert sorted(directory.iterdir()) == sorted(last)
        with Program.from_pin(next(pin for pin in last if "program" in pin.name)) as program:
            assert program.id == other.id


def test_the_namespace_must_be_there(directory):
    with pytest.raises(NotFound):
        lend("hl-never-was", 1, directory)
