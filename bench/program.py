"""From a command to an attached program: `.venv/bin/python bench/program.py [--quick] [--json FILE]`.

One object (examples/lessons/count) is put on one end of a veth pair by `hopline program load`, by `xdp-loader load`,
and by `bpftool prog load` and `net attach`, in turns. A listener to the kernel's link notices takes the time at which
the program is attached; the other figure is the whole command. In the same rounds: what of ours is the start of
Python (`python -c ''`), of Hopline (`hopline --version`), and what `load` imports; and load called by a Python that
runs already. After each turn the device must be empty again.

What it does not show: large objects, for which the verifier takes most of the time, the same for all; a busy device;
and xdp-loader does more: it loads a dispatcher, for up to ten programs on a device.
"""

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from record import machine, save
from world import end_cleanly

from hopline.host.program import load
from hopline.host.program.build import build
from hopline.kernel import bpffs, netns
from hopline.kernel.link import query
from hopline.lab.shell import environment, hopline_command

ROUNDS, QUICK_ROUNDS = 30, 2
SOURCE = Path(__file__).parents[1] / "examples" / "lessons" / "count" / "count.bpf.c"
DEVICE = "bench0"
LIBXDP = bpffs.root() / "xdp"  # where xdp-loader pins, and what it leaves
PIN = bpffs.root() / f"hl-bench-program-{int(time.time())}"
IMPORTS = "import hopline.cli.main, hopline.cli.program.load, hopline.host.program.load"
RTMGRP_LINK = 1
PATIENCE_S = 20.0


@dataclass
class Way:
    """One row: how it is done, and how its traces are removed; without `undo` nothing is attached."""

    name: str
    commands: list[list[str]]
    undo: Callable[[], object] | None = None
    attached: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def quietly(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())


def unpin() -> None:
    quietly("bpftool", "net", "detach", "xdp", "dev", DEVICE)
    PIN.unlink()


def ways(file: str) -> list[Way]:
    """All rows, in the order of a round."""
    attach = ["bpftool", "net", "attach", "xdp", "pinned", str(PIN), "dev", DEVICE]
    return [
        Way("`python -c ''`", [[sys.executable, "-c", ""]]),
        Way("`hopline --version`", [[hopline_command(), "--version"]]),
        Way("Python, and what `load` imports", [[sys.executable, "-c", IMPORTS]]),
        Way(
            "`hopline program load`",
            [[hopline_command(), "program", "load", DEVICE, file]],
            lambda: load.unload(DEVICE),
        ),
        Way("the same, called in a Python that runs", [], lambda: load.unload(DEVICE)),
        Way(
            "`xdp-loader load`",
            [["xdp-loader", "load", "--mode", "native", DEVICE, file]],
            lambda: quietly("xdp-loader", "unload", DEVICE, "--all"),
        ),
        Way(
            "`bpftool prog load`, `bpftool net attach`",
            [["bpftool", "prog", "load", file, str(PIN), "type", "xdp"], attach],
            unpin,
        ),
    ]


class Notices:
    """The kernel's notices of links, which say when a program is attached."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, RTMGRP_LINK))
        self._socket.settimeout(PATIENCE_S)
        self.index = socket.if_nametoindex(DEVICE)

    def drain(self) -> None:
        self._socket.setblocking(False)
        while True:
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                break
        self._socket.settimeout(PATIENCE_S)

    def attached(self) -> float:
        """Wait until a program is on the device, and return when it was."""
        while True:
            self._socket.recv(1 << 16)
            now = time.perf_counter()
            if query(self.index) is not None:
                return now

    def close(self) -> None:
        self._socket.close()


def turn(way: Way, notices: Notices, file: str) -> None:
    """Do it once."""
    notices.drain()
    began = time.perf_counter()
    if not way.commands:
        load.load(DEVICE, file)
        way.attached.append(notices.attached() - began)
    for number, command in enumerate(way.commands, 1):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment()) as process:
            if way.undo is not None and number == len(way.commands):
                way.attached.append(notices.attached() - began)
        assert process.returncode == 0, command
    way.whole.append(time.perf_counter() - began)
    if way.undo is not None:
        assert query(notices.index) is not None
        way.undo()
    assert query(notices.index) is None, f"{way.name}: it is still there"


def measure(rounds: int) -> list[dict]:
    """Figures of all rows, ms."""
    was_there = LIBXDP.exists()
    with tempfile.TemporaryDirectory(prefix="hl-bench-") as directory:
        file = str(build(SOURCE, Path(directory, "count.bpf.o")))
        rows, notices = ways(file), Notices()
        try:
            for number in range(rounds + 1):
                for way in rows:
                    turn(way, notices, file)
                    if number == 0:  # files that were never read, modules that were never loaded
                        way.attached.clear()
                        way.whole.clear()
        finally:
            notices.close()
            load.clear()
            PIN.unlink(missing_ok=True)
            if not was_there:
                with contextlib.suppress(OSError):
                    LIBXDP.rmdir()
    return [
        {"row": way.name, **spread("attached", way.attached), **spread("whole", way.whole), "rounds": rounds}
        for way in rows
    ]


def spread(name: str, seconds: list[float]) -> dict[str, float | None]:
    """Least and median, in ms."""
    least, median = (min(seconds), statistics.median(seconds)) if seconds else (None, None)
    return {
        f"{name}_ms": None if least is None else round(least * 1e3, 1),
        f"{name}_median_ms": None if median is None else round(median * 1e3, 1),
    }


def markdown(rows: list[dict]) -> str:
    """The table of the page."""
    lines = [["ms, least (median)", "to attached", "the command whole"], ["---", "--:", "--:"]]
    for row in rows:
        cells = [
            "" if row[f"{name}_ms"] is None else f"{row[f'{name}_ms']:.1f} ({row[f'{name}_median_ms']:.1f})"
            for name in ("attached", "whole")
        ]
        lines.append([row["row"], *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{rows[0]['rounds']} rounds.\n"


def in_namespace(rounds: int) -> list[dict]:
    """The figures, from a fresh namespace with a veth pair."""
    end_cleanly()
    name = f"hl-bench-{time.time_ns()}"
    netns.create(name)
    try:
        inside = ["nsenter", f"--net=/run/netns/{name}", "ip"]
        subprocess.run([*inside, "link", "add", DEVICE, "type", "veth", "peer", "name", "bench1"], check=True)
        for device in (DEVICE, "bench1"):
            subprocess.run([*inside, "link", "set", device, "up"], check=True)
        with netns.inside(name):
            return measure(rounds)
    finally:
        netns.delete(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few rounds, in under five seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    asked = parser.parse_args()
    rows = in_namespace(QUICK_ROUNDS if asked.quick else ROUNDS)
    here, text = machine(), markdown(rows)
    print(f"{here['cpu']}, {here['cpus']} CPUs, Linux {here['kernel']}, load {here['load']}\n\n{text}")
    if asked.json is not None:
        save(asked.json, rows=rows, markdown=text, quick=asked.quick)


if __name__ == "__main__":
    main()
