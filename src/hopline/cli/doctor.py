"""`hopline doctor`: what on this host stops or slows Hopline."""

import click

from hopline.cli import output
from hopline.cli.grammar import json_option

_MARKS = {"ok": "ok", "warn": "WARNING", "fail": "FAILURE"}


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check this host for what stops or slows Hopline; exits 1 if something stops it."""
    from hopline.host.doctor import examine

    findings = examine()
    if as_json:
        output.json(findings)
    else:
        for finding in findings:
            click.echo(f"{_MARKS[finding.level]:<8} {finding.subject}: {finding.text}")
    return int(any(finding.level == "fail" for finding in findings))
