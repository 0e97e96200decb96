"""A `hopline serve` of the lab's own, started as a user would start it, and found again by whoever cleans up."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hopline.errors import HoplineError
from hopline.lab.shell import Result, enter, environment, hopline_command, run

PINS = Path("/sys/fs/bpf/hopline")
RUN = Path("/run/hopline")
READY_SECONDS = 15.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.05


class Service:
    """One daemon: instance `instance` in `namespace`; its state, log and pid are under `directory`.

    Sockets are where every `hopline --instance …` looks for them, so that a user can look around too.
    `arguments` follow `hopline serve --instance … --state … --run …`. The log (stdout and stderr) is `log`.
    """

    def __init__(self, namespace: str, instance: str, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.namespace = namespace
        self.instance = instance
        self.directory = directory
        self.run_directory = RUN / instance
        self.log = directory / "serve.log"
        own = ["--instance", instance, "--state", str(directory / "state"), "--run", str(self.run_directory)]
        self.arguments = ["serve", *own, *arguments]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid_file(self) -> Path:
        """Holds the daemon's pid, for a later clean-up by another process."""
        return self.directory / "pid"

    def start(self, ready_seconds: float = READY_SECONDS) -> None:
        """Start the daemon in a session of its own and wait until it answers; HoplineError with its last words else."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                enter(self.namespace, [hopline_command(), *self.arguments]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )
        self.pid_file.write_text(f"{self.process.pid}\n")
        deadline = time.monotonic() + ready_seconds
        while self.call("status", check=False).returncode != 0:
            if self.process.poll() is not None:
                raise HoplineError(f"hopline serve: ended with code {self.process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise HoplineError(f"hopline serve: no answer after {ready_seconds:g} s: {self._last_words()}")
            time.sleep(POLL_SECONDS)

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1]} (log: {self.log})" if lines else f"nothing in {self.log}"

    def call(self, *arguments: str, check: bool = True) -> Result:
        """Run `hopline ARGUMENTS` for this instance, in its namespace."""
        command = [hopline_command(), *arguments, "--instance", self.instance]
        return run(enter(self.namespace, command), check=check)

    def json(self, *arguments: str) -> Any:
        """The parsed output of `hopline ARGUMENTS --json`."""
        result = self.call(*arguments, "--json")
        try:
            return json.loads(result.stdout)
        except ValueError as error:
            raise HoplineError(f"hopline {' '.join(arguments)} --json: {error}: {result.stdout[:80]!r}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = STOP_SECONDS) -> int | None:
        """Signal the daemon this object started and wait; SIGKILL after `seconds`. None if not started."""
        process, self.process = self.process, None
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def is_daemon(pid: int, instance: str) -> bool:
    """Whether `pid` is now a `hopline serve` of that instance: a recorded pid may have become anyone's."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return "serve" in arguments and any(pair == ("--instance", instance) for pair in itertools.pairwise(arguments))


def pids_in(namespace: str) -> list[int]:
    """The processes whose network namespace is the named one."""
    return [int(pid) for pid in run(["ip", "netns", "pids", namespace], check=False).stdout.split()]


def end_daemons(instance: str, pids: Iterable[int], seconds: float = STOP_SECONDS) -> None:
    """SIGTERM, then SIGKILL, those of `pids` that are daemons of `instance`; they need not be our children."""
    ours = {pid for pid in pids if is_daemon(pid, instance)}
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, seconds)):
        for pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while ours and time.monotonic() < deadline:
            ours = {pid for pid in ours if is_daemon(pid, instance)}
            time.sleep(POLL_SECONDS)


def remove_instance(instance: str) -> None:
    """Take what an instance left in the kernel and its sockets away, even where no daemon is left to ask."""
    if (PINS / instance).is_dir():
        with contextlib.suppress(HoplineError):
            run([hopline_command(), "detach", "--instance", instance], check=False)
        shutil.rmtree(PINS / instance, ignore_errors=True)
    shutil.rmtree(RUN / instance, ignore_errors=True)
