"""A story told in steps: what is done, what it should show, what it showed, and whether the two agree.

    step    a title and, in words, what to expect
    command one line as typed on a machine (`B# ping …`), with what it printed
    check   one expectation and one observation, each a short string; they agree when they are equal

Everything is printed as it happens; the table of all checks comes last.
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

SHOWN_LINES = 8
# a pipe or a CI log has no width of its own
UNKNOWN_WIDTH = 120


@dataclass(frozen=True)
class Finding:
    """One check: of which step, what was looked at, what should be there, what was there."""

    step: int
    what: str
    expected: str
    seen: str

    @property
    def agrees(self) -> bool:
        """Whether what was seen is what was expected."""
        return self.expected == self.seen


class Story:
    """Prints steps live and keeps their findings."""

    def __init__(self, out: TextIO | None = None) -> None:
        out = sys.stdout if out is None else out
        if isinstance(out, io.TextIOWrapper):
            # a terminal that cannot show a line or a tick shows `?`, and the story goes on
            out.reconfigure(errors="replace")
        self.console = Console(file=out, highlight=False)
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, UNKNOWN_WIDTH)
        self.findings: list[Finding] = []
        self.titles: list[str] = []

    def line(self, text: str, style: str = "") -> None:
        """Print one line as it is: no markup, no wrapping."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a sentence, wrapped to the width there is."""
        self.console.print(Text(text))

    def step(self, title: str, expectation: str) -> None:
        """Begin the next step."""
        self.titles.append(title)
        self.line("")
        self.line(f"{len(self.titles)}. {title}", "bold")
        self.console.print(Padding(Text(f"Expected: {expectation}", style="italic"), (0, 0, 0, 3), expand=False))

    def command(self, host: str, text: str) -> None:
        """Print a command as it would be typed on `host`."""
        self.line(f"   {host}# {text}", "cyan")

    def output(self, lines: Sequence[str], limit: int = SHOWN_LINES) -> None:
        """Print what a command showed; beyond `limit` lines only how many more there were."""
        for each in lines[:limit]:
            self.line(f"      {each}", "bright_black" if self.console.is_terminal else "")
        if len(lines) > limit:
            self.line(f"      … and {len(lines) - limit} more lines")

    def check(self, what: str, expected: str, seen: str) -> bool:
        """Keep and print one finding; true if it agrees."""
        finding = Finding(len(self.titles), what, expected, seen)
        self.findings.append(finding)
        if finding.agrees:
            self.line(f"   ✓ {what}: {seen}", "green")
        else:
            self.line(f"   ✗ {what}: expected {expected}, seen {seen}", "bold red")
        return finding.agrees

    @property
    def differing(self) -> list[Finding]:
        """The findings that do not agree."""
        return [finding for finding in self.findings if not finding.agrees]

    def conclude(self) -> int:
        """Print the table of expected and seen; 0 if every check agreed and there was at least one, else 1."""
        table = Table(title="Expected and seen", title_justify="left", show_lines=False)
        for column in ("step", "what", "expected", "seen", ""):
            table.add_column(column, overflow="fold")
        for index, finding in enumerate(self.findings):
            first = index == 0 or self.findings[index - 1].step != finding.step
            row = (finding.what, finding.expected, finding.seen, "ok" if finding.agrees else "DIFFERS")
            style = "" if finding.agrees else "bold red"
            table.add_row(str(finding.step) if first else "", *(Text(cell) for cell in row), style=style)
        self.line("")
        self.console.print(table)
        differing = len(self.differing)
        self.line(
            f"{len(self.findings) - differing} of {len(self.findings)} as expected"
            + (
                f"; steps that differ: {', '.join(str(s) for s in sorted({f.step for f in self.differing}))}"
                if differing
                else ""
            ),
            "bold red" if differing else "bold green",
        )
        return 1 if differing or not self.findings else 0
