"""What goes to stdout: JSON, or a table that a person reads and awk can."""

import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import click

from hopline.errors import HoplineError, InvalidInput

NONE = "-"  # in a table, where there is no value
_NOT_OF_A_FILE = {"merge", "dry_run", "confirm_within", "revision", "limit"}  # what a request says beside a document


def open_closed() -> None:
    """Have what is said go nowhere where a stream is closed, and no file that is opened later take its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115


def is_stuck(error: OSError) -> bool:
    """Whether it came of stdout, which does not take what was written to it."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    # without a buffer nothing waits to be flushed
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_code is click.echo.__code__


def give_up() -> None:
    """Have the interpreter's last flush of stdout go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def json(value: Any) -> None:
    """Print a value of the API as indented JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Print aligned columns, those named in `right` to the right; in colour where a terminal is wide enough."""
    lines = aligned(columns, rows, right)
    if sys.stdout.isatty() and max(map(len, lines)) + 2 <= shutil.get_terminal_size().columns:
        _rich_table(columns, _cells(rows), right)
        return
    click.echo("\n".join(lines))


def aligned(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> list[str]:
    """Return a heading and a line for each row, in columns two spaces apart."""
    cells = [list(columns), *_cells(rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = (
            text.rjust(width) if name in right else text.ljust(width)
            for name, text, width in zip(columns, row, widths, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return lines


def _cells(rows: Sequence[Sequence[object]]) -> list[list[str]]:
    return [[NONE if value is None else str(value) for value in row] for row in rows]


def error(text: str) -> None:
    """Print one line on stderr: what is wrong, and what to do."""
    line = " ".join(text.rstrip(".").split())
    if not line.isprintable():
        # a name out of a file may hold what acts on a terminal
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    # a name that cannot be encoded is still shown
    print(f"hopline: {line}".encode(errors="backslashreplace").decode(), file=sys.stderr)


class InvalidValues:
    """Around what may find values of a file wrong: tells each on a line of its own, with its place in the file.

    One alone is the error itself. `what` begins the line that sums up, as in `apply fw.toml`; `located` finds the
    lines that the error does not have; `changed`: something might have been.
    """

    def __init__(
        self,
        what: str,
        name: str,
        located: Callable[[InvalidInput], InvalidInput] | None = None,
        changed: bool = False,
    ) -> None:
        self._what = what
        self._name = name
        self._located = located
        self._changed = changed

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, found: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Turn an InvalidInput into lines on stderr and a HoplineError that sums up."""
        if not isinstance(found, InvalidInput) or found.field in _NOT_OF_A_FILE:
            return
        from hopline.document import MOST_COUNTED, describe

        where = found if self._located is None else self._located(found)
        told = [describe(problem, self._name) for problem in where.problems]
        if where.count == 1:
            raise HoplineError(told[0]) from found
        for text in told:
            error(text)
        count = f"more than {MOST_COUNTED}" if where.count > MOST_COUNTED else str(where.count)
        first = f", the first {len(told)} are named" if where.count > len(told) else ""
        unchanged = ": nothing was changed" if self._changed else ""
        raise HoplineError(f"{self._what}: {count} values are wrong{first}{unchanged}") from found


def warn(lines: Sequence[str]) -> None:
    """Print what is worth knowing on stderr, a line each."""
    for line in lines:
        click.echo(f"hopline: warning: {line}", err=True)


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        drawn.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for row in cells:
        drawn.add_row(*(Text(text, style="dim" if text == NONE else "") for text in row))
    Console().print(drawn)
