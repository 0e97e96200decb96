"""What programs print (bpf_printk), each text with its time and the program that it can only be of.

The kernel says which task was running, not which program printed: a packet's program runs in whatever task the packet
interrupted. So a text is held against the format strings of all programs that are loaded.
"""

import errno
import math
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Self

from hopline.errors import KernelError, LayoutError
from hopline.kernel.loaded import program_ids, whole_name
from hopline.kernel.program import Program
from hopline.kernel.tracefs import TracePipe
from hopline.kernel.xlated import formats

_UNKNOWN = "<...>"  # a task of no name, as the kernel writes it
_PATIENCE_S = 0.25  # between two looks at which programs are loaded

_EVENT = re.compile(
    r"^ *(?P<task>\S.*)-(?P<pid>\d+) +(?:\([ \d-]+\) +)?\[(?P<cpu>\d+)\] +\S+ +(?P<at>\d+\.\d+): bpf_trace_printk: "
    r"|^CPU:(?P<on>\d+) \[LOST (?P<lost>\d+) EVENTS\]$",
    re.MULTILINE,
)

# a conversion as bpf_bprintf_prepare of kernel/bpf/helpers.c takes it, and what it may print
_CONVERSION = re.compile(
    r"%[-+ 0]*\d*(?:\.\d+)?(?:(?P<percent>%)|(?P<number>(?:l|ll|h|hh|z)?[diu])|(?P<hex>(?:l|ll|h|hh|z)?[xX])"
    r"|(?P<character>c)|(?P<ip4>p[iI]4)|(?P<ip6>p[iI]6)|(?P<any>s|p(?:[kuBsSK]s?|x)?))"
)
_DIGITS = "0123456789"
_ANY = ""  # where characters are named: all
# steps, each of some characters and how many of them: "1", "?", "+" or "*"
_PRINTS = {
    "percent": (("%", "1"),),
    "number": ((" ", "*"), ("+-", "?"), (_DIGITS, "+"), (" ", "*")),
    "hex": ((" ", "*"), (_DIGITS + "abcdefABCDEF", "+"), (" ", "*")),
    "character": ((_ANY, "1"),),
    "ip4": ((" ", "*"), *((_DIGITS, "+"), (".", "1")) * 3, (_DIGITS, "+"), (" ", "*")),
    "ip6": ((" ", "*"), (_DIGITS + "abcdef:.", "+"), (" ", "*")),
    "any": ((_ANY, "*"),),
}


@dataclass(frozen=True, slots=True)
class Printer:
    """A program that may have printed a text; without BTF its name is cut to 15 characters, as the kernel has it."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Printed:
    """One text: when (seconds of the epoch), on which CPU, in which task, and every program it can be of."""

    when: float
    text: str
    programs: tuple[Printer, ...]
    task: str
    pid: int
    cpu: int


@dataclass(frozen=True, slots=True)
class Lost:
    """So many texts were lost on a CPU, for they were not read in time."""

    cpu: int
    lost: int


class Log:
    """What programs print from now on; `with Log() as log: for entry in log.entries(): …`. KernelError without rights.

    Others who read trace_pipe see the same texts, and take none away.
    """

    def __init__(self) -> None:
        self.pipe = TracePipe()
        try:
            self.printers = Printers()
        except BaseException:
            self.pipe.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()

    def entries(self) -> Iterator[Printed | Lost]:
        """Each as it is printed, without end."""
        while True:
            yield from self.read()

    def read(self, timeout: float = _PATIENCE_S) -> list[Printed | Lost]:
        """What was printed since the last call; waits for it, at most so many seconds."""
        text = self.pipe.read(timeout)
        self.printers.refresh(keep_gone=self.pipe.behind)
        # the clock may be set meanwhile, so the difference is taken anew
        boot = time.time() - time.monotonic()
        return [self._entry(*pair, boot) for pair in split(text)]

    def _entry(self, found: re.Match[str], text: str, boot: float) -> Printed | Lost:
        if found["lost"]:
            return Lost(int(found["on"]), int(found["lost"]))
        at, pid = float(found["at"]), int(found["pid"])
        task = _task(pid) if found["task"] == _UNKNOWN else found["task"]
        return Printed(round(boot + at, 6), text, self.printers.who(text, at), task, pid, int(found["cpu"]))


def _task(pid: int) -> str:
    """The name of a task that the kernel has not noted yet."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="backslashreplace").strip()
    except OSError:
        return _UNKNOWN


def split(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each event's head, and what was printed: of several lines maybe, without the line's end."""
    heads = list(_EVENT.finditer(text))
    for head, following in zip_longest(heads, heads[1:]):
        end = len(text) if following is None else following.start()
        yield head, text[head.end() : end].rstrip("\n")


@dataclass(frozen=True, slots=True)
class _Known:
    """What a program can print, and from when until when it was there, in seconds of CLOCK_MONOTONIC."""

    printer: Printer
    formats: list["Format"]
    since: float
    until: float = math.inf

    def may_have(self, text: "Places", at: float) -> bool:
        return self.since <= at <= self.until and any(one.fits(text) for one in self.formats)


class Printers:
    """The loaded programs that print, and what each can print."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._gone: dict[int, _Known] = {}
        self._seen: set[int] = set()
        self.refresh()

    def __iter__(self) -> Iterator[Printer]:
        return (known.printer for known in self._known.values())

    def refresh(self, keep_gone: bool = False) -> None:
        """Look which programs are loaded.

        Those gone since the last look may have printed what is read now; with `keep_gone`, all that went before, too.
        """
        loaded, now = set(program_ids()), time.monotonic()
        if not keep_gone:
            self._gone.clear()
        for number in self._known.keys() - loaded:
            self._gone[number] = replace(self._known.pop(number), until=now)
        for number in sorted(loaded - self._seen):
            self._learn(number)
        self._seen = loaded

    def _learn(self, number: int) -> None:
        try:
            with Program.from_id(number) as program:
                texts, loaded_ns = formats(program), program.info().loaded_ns
                name = program.name
                with suppress(LayoutError):  # BTF that we cannot read
                    name = whole_name(program) if texts else name
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return  # gone since
        if texts:
            asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
            known = [Format(text) for text in sorted(texts)]
            self._known[number] = _Known(Printer(number, name), known, loaded_ns / 1e9 - asleep)

    def who(self, text: str, at: float) -> tuple[Printer, ...]:
        """Every program that can have printed this at that time, of CLOCK_MONOTONIC."""
        known, places = (*self._known.values(), *self._gone.values()), Places(text)
        return tuple(one.printer for one in known if one.may_have(places, at))


class Places:
    """A text, and sets of places in it: numbers whose bit n is the place before its character n, the last its end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._of: dict[str, int] = {_ANY: (1 << len(text)) - 1}
        self._where: dict[str, int] = {}

    def after(self, reached: int, characters: str, count: str) -> int:
        """The places behind so many of these characters, from any that was reached."""
        if characters not in self._of:
            # the last is the highest bit
            bits = ("1" if one in characters else "0" for one in reversed(self.text))
            self._of[characters] = int("".join(bits) or "0", 2)
        here = self._of[characters]
        behind = (reached & here) << 1
        if count == "1":
            return behind
        if count == "?":
            return reached | behind
        # the carry of the sum runs through all that follow one another
        begun = behind if count == "+" else reached
        return (((begun & here) + here) ^ here) | begun

    def after_literal(self, reached: int, literal: str) -> int:
        """The places behind this very text, from any that was reached."""
        if reached & (reached - 1) == 0:
            stands = self.text.startswith(literal, reached.bit_length() - 1)
            return reached << len(literal) if stands else 0
        if literal not in self._where:
            found, at = 0, self.text.find(literal)
            while at >= 0:
                found |= 1 << at
                at = self.text.find(literal, at + 1)
            self._where[literal] = found
        return (reached & self._where[literal]) << len(literal)


class Format:
    """What a format string can print, without the ends of lines behind it.

    Whatever it says, a text is walked through once, with all places that can have been reached: a program of another
    can print what a regular expression would take for ever to refuse.
    """

    def __init__(self, text: bytes) -> None:
        said, at = text.decode(errors="backslashreplace").rstrip("\n"), 0
        self._parts: list[str | tuple[tuple[str, str], ...]] = []
        for found in _CONVERSION.finditer(said):
            self._parts += [said[at : found.start()], _PRINTS[found.lastgroup or "any"]]
            at = found.end()
        self._parts.append(said[at:])

    def fits(self, places: Places) -> bool:
        """Whether it can have printed this whole text."""
        reached = 1
        for part in self._parts:
            if isinstance(part, str):
                reached = places.after_literal(reached, part) if part else reached
            else:
                for characters, count in part:
                    reached = places.after(reached, characters, count)
            if not reached:
                return False
        return bool(reached >> len(places.text))
