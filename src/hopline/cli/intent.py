"""The intent as a whole: `hopline apply`, `diff`, `export`, `history`, `rollback`, `confirm`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hopline.cli import difference, output
from hopline.cli.grammar import (
    Comparison,
    Duration,
    client,
    common_options,
    complete_changes,
    json_option,
    spelled,
)
from hopline.errors import Refused

if TYPE_CHECKING:
    from hopline.daemon.protocol import Applied, HistoryRow
    from hopline.document import Document
    from hopline.intent import Wanted

_STDIN = "-"
_file_argument = click.argument("file", type=click.Path(allow_dash=True))
_merge_option = click.option("--merge", is_flag=True, help="Only add and change: what FILE does not name stays.")
_dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


@click.command()
@_file_argument
@_dry_run_option
@_merge_option
@click.option("--yes", is_flag=True, help="Remove without asking, and serve even the address you are logged in by.")
@click.option(
    "--confirm-within",
    type=Duration(),
    metavar="DURATION",
    help="Roll it back unless `hopline confirm` comes in this time: 60s, 5m, 1h.",
)
@json_option
@common_options
def apply(file: str, dry_run: bool, merge: bool, yes: bool, confirm_within: float | None, as_json: bool) -> None:
    """Make the intent what the document FILE says (- is stdin), all or nothing."""
    document = _document("apply", file, merge)
    intent = client().intent
    with output.InvalidValues(f"apply {file}", file, document.located, changed=True):
        rehearsed = intent.apply(
            document.wanted, merge=merge, dry_run=True, confirm_within=confirm_within, limit=difference.ASK_FOR
        )
        if not as_json:
            _show(rehearsed, file, merge)
        if dry_run or not difference.differs(rehearsed):
            if as_json:
                output.json(rehearsed)
            elif difference.differs(rehearsed):
                click.echo("dry run: nothing was changed")
            output.warn(rehearsed.warnings)
            return
        if not yes:
            _refuse_connected(file, document.wanted)
        _ask_before_removing(file, difference.total(rehearsed, "removed"), yes)
        # what was shown is what is done: refused if somebody else was quicker
        done = intent.apply(
            document.wanted,
            merge=merge,
            confirm_within=confirm_within,
            revision=rehearsed.revision,
            limit=difference.ASK_FOR if as_json else 0,
        )
    _tell(done, as_json)


@click.command(cls=Comparison)
@_file_argument
@_merge_option
@json_option
@common_options
def diff(file: str, merge: bool, as_json: bool) -> int:
    """Show what `apply FILE` would do; exits 0 if nothing, 1 if something, 2 if that cannot be said."""
    document = _document("diff", file, merge)
    with output.InvalidValues(f"diff {file}", file, document.located):
        found = client().intent.diff(document.wanted, merge=merge, limit=difference.ASK_FOR)
    if as_json:
        output.json(found)
    else:
        difference.show(found)
    output.warn(found.warnings)
    return int(difference.differs(found))


@click.command()
@json_option
@common_options
def export(as_json: bool) -> None:
    """Print the intent as a document, TOML unless told: applied again, it changes nothing."""
    intent = client().intent.show()
    if as_json:
        output.json(_without_defaults(intent))
        return
    from hopline.document import write_toml

    write_toml(intent, sys.stdout)


@click.command()
@json_option
@common_options
def history(as_json: bool) -> None:
    """Show the last changes of the intent, the newest first."""
    rows = client().history()
    if as_json:
        output.json(rows)
        return
    columns = ["CHANGE", "WHEN", "WHAT", "ADDED", "CHANGED", "REMOVED", "BY"]
    output.table(columns, [_row(row) for row in rows], right=["CHANGE", "ADDED", "CHANGED", "REMOVED"])


@click.command()
@click.argument("number", metavar="N", type=click.IntRange(0), shell_complete=complete_changes)
@_dry_run_option
@json_option
@common_options
def rollback(number: int, dry_run: bool, as_json: bool) -> None:
    """Make the intent what it was after change N of `hopline history`; asks nothing."""
    done = client().rollback(number, dry_run=dry_run, limit=difference.ASK_FOR)
    if as_json:
        output.json(done)
        return
    if not difference.differs(done):
        click.echo(f"nothing to change: the intent is what it was after change {number}")
        return
    difference.show(done)
    if dry_run:
        click.echo("dry run: nothing was changed")
        output.warn(done.warnings)
    else:
        _tell(done, as_json=False)


@click.command()
@json_option
@common_options
def confirm(as_json: bool) -> None:
    """Keep the change that is rolled back otherwise."""
    kept = client().intent.confirm()
    if as_json:
        output.json(kept)
    else:
        click.echo(f"change {kept.revision} is confirmed: it stays")


def _document(verb: str, file: str, merge: bool) -> "Document":
    """Read a document; every wrong value of it is told, and the last word is an error of one line."""
    from hopline.document import read_document
    from hopline.intent import NOUNS

    data = sys.stdin.buffer.read() if file == _STDIN else Path(file).read_bytes()
    with output.InvalidValues(f"{verb} {file}", file, changed=verb == "apply"):
        document = read_document(data, file)
    unsaid = [noun.name for noun in NOUNS if noun.name not in document.wanted.entries]
    if unsaid and not merge:
        says = f"a file of this format cannot say which {unsaid[0]}s there are, and all would be removed"
        raise Refused(f"{verb} {file}: {says}: use --merge, or a TOML document")
    return document


def _show(applied: "Applied", file: str, merge: bool) -> None:
    if difference.differs(applied):
        difference.show(applied)
    else:
        already = "already has all that" if merge else "is already what"
        click.echo(f"nothing to change: the intent {already} {file} says")


def _refuse_connected(file: str, wanted: "Wanted") -> None:
    from hopline.host.connected import refuse_connected

    known = {service.vip for service in client().intent.show().service} if wanted.of("service") else set()
    for service in wanted.of("service").values():
        if service.vip not in known:
            refuse_connected(f"apply {file}", service.vip)


def _ask_before_removing(file: str, removed: int, yes: bool) -> None:
    """Return if nothing is removed or that is wanted; Refused otherwise, and where nobody can be asked."""
    if not removed or yes:
        return
    entries = "1 entry" if removed == 1 else f"{removed} entries"
    answer = _answer(f"remove {entries}? [y/N] ", file == _STDIN)
    if answer is None:
        would = f"{entries} would be removed, and there is no terminal to ask on"
        raise Refused(f"apply {file}: {would}: use --yes, or --merge to keep what it does not name")
    if answer.strip().lower() not in ("y", "yes"):
        raise Refused(f"apply {file}: not confirmed: nothing was changed")


def _answer(question: str, stdin_is_taken: bool) -> str | None:
    """Ask on the terminal; None if there is none."""
    if not stdin_is_taken:
        if not sys.stdin.isatty():
            return None
        click.echo(question, nl=False, err=True)
        return sys.stdin.readline()
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            terminal.write(question.encode())
            return terminal.readline().decode(errors="replace")
    except OSError:
        return None


def _tell(done: "Applied", as_json: bool) -> None:
    if as_json:
        output.json(done)
    elif done.confirm_within_s is None:
        click.echo(f"change {done.revision} is done")
    else:
        within = f"{done.confirm_within_s:g} s"
        click.echo(
            f"change {done.revision} is done, and rolled back in {within} unless {spelled('confirm')} comes first"
        )
    output.warn(done.warnings)


def _row(row: "HistoryRow") -> list[object]:
    sums = [sum(getattr(counts, kind) for counts in row.counts.values()) for kind in ("added", "changed", "removed")]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.when))
    what = f"{row.what} (to be confirmed)" if row.pending else row.what
    return [row.number, when, what, *sums, row.by]


def _without_defaults(intent: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the document as JSON has it, without what need not be said."""
    import msgspec

    from hopline.intent import NOUNS

    return {
        noun.name: [difference.brief(noun.kind, msgspec.to_builtins(entry)) for entry in getattr(intent, noun.name)]
        for noun in NOUNS
    }
