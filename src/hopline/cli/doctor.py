"""`hopline doctor`: what on this host stops or slows Hopline, and what the kernel's hooks can do."""

import dataclasses
import textwrap

import click

from hopline.cli import output
from hopline.cli.grammar import json_option

_MARKS = {"ok": "ok", "warn": "WARNING", "fail": "FAILURE"}
_WIDTH = 100


@click.command()
@click.option("--hooks", is_flag=True, help="Instead: which helpers a program may call at each hook, in this kernel.")
@json_option
def doctor(hooks: bool, as_json: bool) -> int:
    """Check this host for what stops or slows Hopline; exits 1 if something stops it."""
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
