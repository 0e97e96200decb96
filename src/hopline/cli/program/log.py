"""`hopline program log`: what programs print."""

import sys
import time
from typing import TYPE_CHECKING

import click

from hopline.cli.grammar import json_option
from hopline.cli.program.stream import json_line, shown, until_stopped

if TYPE_CHECKING:
    from hopline.host.program.log import Log, Lost, Printed


@click.command(short_help="What programs print, with program and time.")
@json_option
def log(as_json: bool) -> None:
    """Print what the programs of this host print (bpf_printk) from now on, until Ctrl-C: time, program, text.

    The program is the one whose format strings the text fits; where it fits several, all are named; where it fits none,
    the task is that the program ran in. Other readers of the kernel's trace_pipe see the same.
    """
    from hopline.host.program.log import Log

    with until_stopped(), Log() as source:
        if sys.stderr.isatty():
            click.echo(_awaited(source), err=True)
        for entry in source.entries():
            if as_json:
                json_line(entry)
            else:
                click.echo(_line(entry))


def _awaited(source: "Log") -> str:
    names = ", ".join(f"{one.name} (id {one.id})" for one in source.printers)
    return f"waiting for what programs print; loaded are: {names}" if names else "no program that prints is loaded yet"


def _line(entry: "Printed | Lost") -> str:
    from hopline.host.program.log import Lost

    if isinstance(entry, Lost):
        return f"({entry.lost} texts of CPU {entry.cpu} were lost: they came faster than they could be read)"
    clock = time.strftime("%H:%M:%S", time.localtime(entry.when))
    who = " or ".join(f"{one.name} (id {one.id})" for one in entry.programs) or f"task {entry.task} ({entry.pid})"
    return f"{clock}.{round(entry.when % 1 * 1e6) % 1000000:06d}  {shown(who)}  {shown(entry.text)}"
