"""What goes to stdout: JSON, or a table that a person reads and awk can."""

import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click

NONE = "-"  # in a table, where there is no value


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
