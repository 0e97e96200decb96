"""Running a lesson's commands on its hosts, as they would be typed there."""

import contextlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from hopline.lab.program.compare import compare
from hopline.lab.program.lessons import Command
from hopline.lab.shell import enter, environment, hopline_command
from hopline.lab.story import Story

COMMAND_SECONDS = 30.0
BACKGROUND_SECONDS = 15.0
READY_SECONDS = 5.0
MOST_SECONDS = 60
POLL_SECONDS = 0.02
READ_OCTETS = 1 << 16
SHOWN_LINES = 24
LISTENING = "listening on"  # tcpdump's word for being ready


def namespace(host: str) -> str:
    """The namespace of a host."""
    return f"hl-{host}"


class Stage:
    """Hosts with a scratch directory in common; what still runs beside the story ends with the block."""

    def __init__(self, story: Story, directory: Path) -> None:
        self.story = story
        self.directory = directory
        self._beside: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        path = f"{Path(hopline_command()).parent}:{environment()['PATH']}"
        self._environment = {**environment(), "PATH": path, "COLUMNS": "120", "TERM": "dumb"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *how: object) -> None:
        for _, process, _ in self._beside:
            _end(process)

    def perform(self, command: Command) -> None:
        """Run a command, show it, and check what it printed."""
        self.story.command(command.host, command.text)
        if command.text.endswith(" &"):
            self._start(command)
            return
        if command.text == "wait":
            code, printed = self._wait(command.host)
        else:
            code, printed = self._run(command)
        lines = printed.splitlines()
        self.story.output(lines, limit=SHOWN_LINES)
        what = f"{command.host}# {command.text}"
        expected, seen = compare(command.output, lines) if command.output else ("", "")
        if expected == seen and bool(code) != command.fails:
            last = next((line for line in reversed(lines) if line.strip()), "nothing")
            expected, seen = "a failure" if command.fails else "exit code 0", f"exit code {code}: {last}"
        if expected or seen:
            self.story.check(what, expected, seen)

    def _run(self, command: Command) -> tuple[int, str]:
        """Run a command to its end, before a terminal: its exit code, and what that showed."""
        terminal, line = os.openpty()
        try:
            process = self._popen(command, line)
            os.close(line)
            printed = _read_terminal(terminal, process)
        finally:
            os.close(terminal)
        if process.poll() is None:
            _end(process)
            return 1, f"{printed}no end after {COMMAND_SECONDS:g} s\n"
        return process.returncode, printed

    def _popen(self, command: Command, out: int) -> subprocess.Popen[bytes]:
        # `timeout` bounds it even if this process is killed
        bounded = ["timeout", str(MOST_SECONDS), "sh", "-c", command.text.removesuffix(" &")]
        return subprocess.Popen(
            enter(namespace(command.host), bounded),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=self.directory,
            env=self._environment,
            start_new_session=True,
        )

    def _start(self, command: Command) -> None:
        said = self.directory / f"{command.host}-{len(self._beside)}.out"
        with said.open("wb") as out:
            process = self._popen(command, out.fileno())
        self._beside.append((command.host, process, said))
        deadline = time.monotonic() + READY_SECONDS
        while "tcpdump" in command.text and process.poll() is None and time.monotonic() < deadline:
            if LISTENING in said.read_text(errors="replace"):
                break
            time.sleep(POLL_SECONDS)

    def _wait(self, host: str) -> tuple[int, str]:
        """Let what runs beside on a host end: its exit codes added up, and what was said."""
        code, printed = 0, ""
        for _, process, said in [each for each in self._beside if each[0] == host]:
            try:
                code += process.wait(BACKGROUND_SECONDS)
            except subprocess.TimeoutExpired:
                _end(process)
                code, printed = code + 1, f"{printed}no end after {BACKGROUND_SECONDS:g} s\n"
            printed += said.read_text(errors="replace")
        self._beside = [each for each in self._beside if each[0] != host]
        return code, printed


def _read_terminal(terminal: int, process: subprocess.Popen[bytes]) -> str:
    """What a process shows until it ends, or its time is over."""
    printed, deadline = b"", time.monotonic() + COMMAND_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        if select.select([terminal], [], [], 0 if ended else POLL_SECONDS)[0]:
            with contextlib.suppress(OSError):  # so a terminal says that nobody writes to it any more
                printed += os.read(terminal, READ_OCTETS)
                continue
        if ended:
            break
        time.sleep(POLL_SECONDS)
    return printed.decode(errors="replace").replace("\r\n", "\n")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it has started, unless it has ended by itself."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
