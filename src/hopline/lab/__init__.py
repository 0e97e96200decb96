"""Labs: networks made of namespaces on this machine, in which a verb can be watched at work.

    topology   what the network looks like, and building it
    story      steps, checks and the table at the end
    forward    the story of `hopline lab forward`
    balance    the story of `hopline lab balance`, and servers what it puts beside the node
    program    the lessons of `hopline lab program`

Each lab writes down what it is about to make under /run/hopline/lab/NAME, so that `down` finds it after a crash.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hopline.errors import Refused
from hopline.lab.service import end_daemons, pids_in, remove_instance
from hopline.lab.shell import namespaces, require
from hopline.lab.topology import tear_down

RECORDS = Path("/run/hopline/lab")
LABS = ("forward", "balance", "program")
INSTANCES, PROCESSES = "instances", "processes"  # of a lab's record: daemons besides its own, pids of what else it runs

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


def record_directory(name: str) -> Path:
    """Where the lab `name` keeps what it has made."""
    return RECORDS / name


def instance_name(name: str) -> str:
    """The Hopline instance that the lab `name` runs."""
    return f"lab-{name}"


def claim(name: str, namespace_names: tuple[str, ...], instances: tuple[str, ...] = ()) -> Path:
    """Write down the namespaces a lab is about to make, and the Hopline instances in them besides its own.

    Returns the lab's directory. Refused if one of the namespaces exists already.
    """
    taken = sorted(namespaces().intersection(namespace_names))
    if taken:
        todo = f"remove it with `ip netns delete {taken[0]}`"
        raise Refused(f"lab {name}: namespace {taken[0]} exists and is not the lab's: {todo}")
    directory = record_directory(name)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "namespaces").write_text("".join(f"{each}\n" for each in namespace_names))
    (directory / INSTANCES).write_text("".join(f"{each}\n" for each in instances))
    return directory


@contextlib.contextmanager
def alone(name: str, asked: str) -> Iterator[None]:
    """Hold the lab `name` for this process; Refused if another one is using it. Ends with the process, however."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    path = RECORDS / f"{name}.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise Refused(f"{asked}: lab {name} is in use by process {lock.read().strip()}: let it end first") from None
        if os.fstat(lock.fileno()).st_nlink == 0:
            raise Refused(f"{asked}: lab {name} has ended just now: try again")
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            # gone unless another lab, or this one with --keep, is still recorded
            with contextlib.suppress(OSError):
                RECORDS.rmdir()


@contextlib.contextmanager
def _handling(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals by `handler` while the block runs; another thread than the main one may not, and does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before or signal.SIG_DFL)


def stoppable() -> contextlib.AbstractContextManager[None]:
    """Turn SIGTERM and SIGHUP into SystemExit while the block runs, so that they too clean up."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    return _handling(leave, signal.SIGTERM, signal.SIGHUP)


def undisturbed() -> contextlib.AbstractContextManager[None]:
    """Ignore what would stop this process while the block runs: a second Ctrl-C must not leave half a clean-up."""
    return _handling(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def clear(name: str) -> list[str]:
    """Remove whatever a run of the lab `name` left: daemons, pins, namespaces, files. The namespaces removed.

    The caller holds `alone(name, …)`. Doing it twice, or with nothing there, is no error.
    """
    directory = record_directory(name)
    made = _words(directory / "namespaces")
    left = [each for each in made if each in namespaces()]
    inside = {pid for each in left for pid in pids_in(each)}
    # a daemon whose pid was never written is still found by the namespace it lives in
    pids = {int(word) for word in _words(directory / "pid") if word.isdigit()}
    for instance in (instance_name(name), *_words(directory / INSTANCES)):
        end_daemons(instance, pids | inside)
        remove_instance(instance)
    # a pid that was written down may be another's by now, but not one in the lab's namespaces
    for pid in inside.intersection(int(word) for word in _words(directory / PROCESSES) if word.isdigit()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for each in left:
        _remove_programs(each)
    tear_down(tuple(left))
    shutil.rmtree(directory, ignore_errors=True)
    return left


def told(name: str, tools: Sequence[str], tell: Callable[[], int], keep: bool) -> int:
    """Tell the story of the lab `name`, which needs `tools`; its exit code.

    With `keep` the lab is left standing. After an exception nothing is.
    """
    require(f"lab {name}", tools)
    with alone(name, f"lab {name}"), stoppable():
        standing = False
        try:
            # an earlier run may have been killed
            clear(name)
            code = tell()
            standing = keep
        finally:
            if not standing:
                with undisturbed():
                    clear(name)
        return code


def _remove_programs(namespace: str) -> None:
    """Take what `hopline program` left in a namespace away: pins and records of it outlive the namespace itself."""
    from hopline.host.program.load import clear
    from hopline.kernel import netns

    netns.run_in(namespace, clear)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except FileNotFoundError:
        return []


def down() -> list[str]:
    """Remove every lab on this machine; returns the namespaces that were there."""
    require("lab down", ("ip",))
    removed: list[str] = []
    for name in LABS:
        with alone(name, "lab down"):
            removed += clear(name)
    return removed
