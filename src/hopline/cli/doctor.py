"""`hopline doctor`: what on this host stops or slows Hopline, what the kernel's hooks can do, and `doctor backend`."""

import dataclasses
import shlex
import textwrap
from typing import TYPE_CHECKING

import click

from hopline.cli import output
from hopline.cli.grammar import Group, common_options, instance, json_option, target

if TYPE_CHECKING:
    from hopline.host.backend import Hopline

_MARKS = {"ok": "ok", "warn": "WARNING", "fail": "FAILURE"}
_WIDTH = 100


@click.group(cls=Group, invoke_without_command=True)
@click.option("--hooks", is_flag=True, help="Instead: which helpers a program may call at each hook, in this kernel.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, hooks: bool, as_json: bool) -> int:
    """Check this host for what stops or slows Hopline; exits 1 if something stops it."""
    if ctx.invoked_subcommand is not None:
        if hooks or as_json:
            raise click.UsageError(f"give options behind `{ctx.invoked_subcommand}`", ctx)
        return 0
    if hooks:
        _hooks(as_json)
        return 0
    from hopline.host.doctor import examine

    findings = examine()
    if as_json:
        output.json(findings)
    else:
        for finding in findings:
            click.echo(f"{_MARKS[finding.level]:<8} {finding.subject}: {finding.text}")
    return int(any(finding.level == "fail" for finding in findings))


@doctor.command(short_help="Check a real server, behind a director that tunnels.")
@click.argument("vip", metavar="[ADDR]", required=False)
@json_option
@common_options
def backend(vip: str | None, as_json: bool) -> int:
    """Check this host as a real server of the VIP ADDR, or of all its addresses that look like one.

    Each line says what is so, and where it is wrong the command that mends it. Exits 1 if something is wrong.
    """
    from hopline.config import canonical_host
    from hopline.host.backend import examine

    findings = examine(None if vip is None else canonical_host(vip, "ADDR"), _hopline())
    if as_json:
        output.json(findings)
    else:
        for finding in findings:
            mend = f": {finding.mend}" if finding.mend else ""
            click.echo(f"{_MARKS[finding.level]:<8} {finding.subject}: {finding.text}{mend}")
    return int(any(finding.level == "fail" for finding in findings))


def _hopline() -> "Hopline | None":
    """Return what the instance that the command line means says of itself; None where it does not answer."""
    from hopline.client import connect
    from hopline.errors import Refused, Unavailable
    from hopline.host.backend import Hopline

    meant = target()
    client = connect(instance(), meant.run, timeout=2)
    try:
        status, rows = client.status(), client.decap.show()
    except (Unavailable, Refused):
        return None
    words = ["hopline"]
    for flag, value in (("--instance", meant.instance), ("--run", meant.run)):
        words += [flag, shlex.quote(value)] if value else []
    attached = [state.name for state in status.interfaces if state.attached]
    return Hopline(status.netns, [row.decap for row in rows], attached, " ".join(words))


def _hooks(as_json: bool) -> None:
    from hopline.host.hooks import hooks, shared

    found = hooks()
    if as_json:
        output.json(found)
        return
    names = [hook.hook for hook in found]
    abilities = [dataclasses.asdict(hook.abilities) for hook in found]
    rows = [(name, *(_mark(one[name]) for one in abilities)) for name in abilities[0]]
    output.table(["MAY", *names], [("drop", *(_mark(bool(hook.helpers)) for hook in found)), *rows])
    common = shared(found)
    some = sorted({helper for hook in found for helper in hook.helpers}.difference(common))
    click.echo("")
    output.table(["HELPER", *names], [(name, *(_mark(name in hook.helpers) for hook in found)) for name in some])
    click.echo(f"\nand at every hook {len(common)} more:")
    click.echo(textwrap.fill(", ".join(common), _WIDTH, initial_indent="    ", subsequent_indent="    "))


def _mark(there: bool) -> str | None:
    return "yes" if there else None
