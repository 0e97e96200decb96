"""A day in a store's life, played in a process whose disk may fail (crash.c). Run as a program by test_crash.py.

`python play.py PLAY ROOT MANNER CALL...` plays PLAY once for each CALL, in a process of its own and a directory of its
own, ROOT/CALL/main, where crash.c strikes at that call in that MANNER (0: never). It prints a line of JSON for each.
"""

import ctypes
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hopline.config import Interface, NextHop
from hopline.errors import HoplineError
from hopline.intent import Wanted, difference
from hopline.store import schema
from hopline.store.embedded import Store

BEGIN = "begin"
LATER = 4e9  # seconds since the epoch: nothing here waits for it
HOPS = [NextHop("eth1", None, f"08:00:27:f2:cb:{n:02x}") for n in range(16)] + [NextHop(via="10.10.3.1")]

Snapshot = dict[str, Any]


def many(count: int, salt: int) -> dict[str, NextHop]:
    """`count` entries, among 40,000 destinations."""
    places = ((n * 7919 + salt) % 40_000 for n in range(count))
    return {f"10.{n >> 8}.{n & 255}.{salt % 250 + 1}": HOPS[(n + salt) % len(HOPS)] for n in places}


def wanted(forward: dict[str, NextHop], *interfaces: str) -> Wanted:
    return Wanted({"interface": {name: Interface(name) for name in interfaces}, "forward": forward})


@dataclass
class Play:
    """One store, and what is done to it step by step."""

    directory: Path
    store: Store | None = None

    def open(self) -> None:
        self.store = Store.open(self.directory)

    def close(self) -> None:
        self.store.close()

    def settle(self) -> None:
        self.store.settle()

    def confirm(self) -> None:
        self.store.confirm()

    def want(self, want: Wanted, **how: Any) -> None:
        """One change, as `hopline apply` makes it."""
        self.store.write(difference(self.store.read(), want), by="play", what="apply", **how)

    def back(self, number: int, **how: Any) -> None:
        self.store.write(self.store.back_to(number), by="play", what=f"rollback to {number}", **how)


Step = Callable[[Play], None]

FEW = {"10.2.0.0/16": HOPS[0], "10.3.0.1": HOPS[1], "2001:db8::/64": NextHop("eth2", via="fe80::1")}
SMALL: list[Step] = [
    Play.open,
    Play.settle,
    lambda play: play.want(wanted(FEW, "eth0", "eth1")),
    lambda play: play.want(wanted({**FEW, "10.3.0.1": HOPS[2], "10.4.0.1": HOPS[2]}, "eth1")),
    lambda play: play.want(wanted(many(1000, 1), "eth1"), confirm_by=LATER),
    Play.confirm,
    lambda play: play.want(wanted({**many(500, 1), **many(300, 2)}), confirm_by=LATER),
    lambda play: play.back(3, settles_pending=True),
    lambda play: play.back(1),
    Play.close,
    Play.open,
    lambda play: play.want(wanted(many(1000, 3), "eth3")),
    Play.close,
]
# the history reaches its length
LONG: list[Step] = [
    *SMALL[:-1],
    *(lambda play, n=n: play.want(wanted({**FEW, "10.9.0.1": HOPS[n % 16]})) for n in range(52)),
    lambda play: play.want(wanted(many(1000, 4))),
    Play.close,
]
# a directory that holds a store of the first schema is put there before
OLD: list[Step] = [
    Play.open,
    lambda play: play.want(wanted(FEW)),
    Play.close,
]
# the file there is damaged
SPOILT: list[Step] = [Play.open, Play.settle, lambda play: play.want(wanted(FEW)), Play.close]
PLAYS = {"small": SMALL, "long": LONG, "old": OLD, "spoilt": SPOILT}
# pages of the log: small, so that it is copied back and begun anew in the middle of a play
LOG_PAGES = {"long": 25}


def snapshot(store: Store) -> Snapshot:
    """What a store says, but for the time of day."""
    rows = [(row.number, row.by, row.what, msgspec.to_builtins(row.counts), row.pending) for row in store.history()]
    return {"wanted": store.read(), "history": rows, "pending": store.pending, "revision": store.revision}


class Disk:
    """crash.c, preloaded into this process."""

    def __init__(self) -> None:
        self._shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._shim.crash_calls.restype = ctypes.c_long

    def strike(self, call: int, manner: int) -> None:
        self._shim.crash_at(ctypes.c_long(call), ctypes.c_int(manner))

    def mark(self, text: str) -> None:
        self._shim.crash_mark(text.encode())

    def calls(self) -> int:
        return int(self._shim.crash_calls())


def perform(name: str, directory: Path, disk: Disk, say: Callable[[str], None]) -> None:
    """Play to the end, or to the first step that is refused; say what each step came to."""
    play = Play(directory)
    schema.LOG_PAGES = LOG_PAGES.get(name, schema.LOG_PAGES)
    for place, step in enumerate(PLAYS[name]):
        try:
            step(play)
        except HoplineError as error:
            say(f"refused {error}")
            os.kill(os.getpid(), signal.SIGKILL)
        say("done")
        disk.mark(str(place))
    say(f"calls {disk.calls()}")


def main() -> None:
    name, root, manner, *calls = sys.argv[1:]
    disk = Disk()
    for call in calls:
        directory = Path(root, call, "main")
        template = Path(root, "template")
        directory.parent.mkdir()
        if template.exists():
            shutil.copytree(template, directory)
        print(json.dumps({"call": int(call), **forked(name, directory, disk, int(call), int(manner))}), flush=True)


def forked(name: str, directory: Path, disk: Disk, call: int, manner: int) -> dict[str, Any]:
    """Play once in a process of its own; return how it ended, and what it said until then."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        disk.mark(BEGIN)
        disk.strike(call, manner)
        perform(name, directory, disk, lambda text: os.write(writer, f"{text}\n".encode()) and None)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as said:
        lines = said.read().splitlines()
    return {"status": os.waitpid(child, 0)[1], "said": lines}


if __name__ == "__main__":
    main()
