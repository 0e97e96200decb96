"""`hopline service import-ipvs`: the services of an IPVS director, from its rules."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hopline.cli import difference, output
from hopline.cli.grammar import client, common_options, json_option
from hopline.errors import Refused

if TYPE_CHECKING:
    from hopline.features.ipvs import Imported, Said

_STDIN = "-"
_LINES_SHOWN = 5  # of those that one text is about


@click.command("import-ipvs", short_help="Enter the services that rules of ipvsadm say.")
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--partial", is_flag=True, help="Enter what can be expressed, though not all can.")
@click.option("--yes", is_flag=True, help="Even if a VIP is an address that you are logged in by.")
@json_option
@common_options
def import_ipvs(file: str, partial: bool, yes: bool, as_json: bool) -> None:
    """Enter the services that FILE says (- is stdin), all or nothing: `ipvsadm -S -n`, or commands as they are typed.

    Whatever schedules becomes Maglev. What cannot be expressed is listed, and then nothing is entered; with --partial
    the rest is. Services are named after protocol, address and port.
    """
    from hopline.config import Intent
    from hopline.features.ipvs import services_of

    found = services_of(_text(file))
    if not as_json:
        for said in found.notes:
            click.echo(f"{_place(file, said)}: {said.text}")
    _lost(file, found, partial)
    if not found.services:
        raise Refused(f"service import-ipvs {file}: no service of ipvsadm in it: give what `ipvsadm -S -n` prints")
    _refuse_connected(file, found, yes)
    with output.InvalidValues(f"service import-ipvs {file}", file, changed=True):
        done = client().intent.apply(Intent(service=found.services), merge=True, limit=difference.ASK_FOR)
    if as_json:
        output.json({"applied": done, "services": found.services, "lost": found.lost, "notes": found.notes})
    else:
        difference.show(done)
        what = f"change {done.revision} is done" if difference.differs(done) else "nothing to change: it is all there"
        click.echo(what)
    output.warn(done.warnings)


def _text(file: str) -> str:
    data = sys.stdin.buffer.read() if file == _STDIN else Path(file).read_bytes()
    return data.decode("utf-8", "backslashreplace")


def _lost(file: str, found: "Imported", partial: bool) -> None:
    """Tell what cannot be expressed; Refused if that stands against the rest."""
    if partial:
        output.warn([f"{_place(file, said)}: {said.text}" for said in found.lost])
    elif found.lost:
        for said in found.lost:
            output.error(f"{_place(file, said)}: {said.text}")
        count = len({said.lines[0] for said in found.lost})
        some = "1 line" if count == 1 else f"{count} lines"
        todo = "use --partial to enter the rest" if found.services else "no service would be left"
        raise Refused(f"service import-ipvs {file}: {some} cannot be expressed: nothing was changed: {todo}")


def _refuse_connected(file: str, found: "Imported", yes: bool) -> None:
    from hopline.host.connected import refuse_connected

    for service in found.services if not yes else ():
        refuse_connected(f"service import-ipvs {file}", service.vip)


def _place(file: str, said: "Said") -> str:
    """Return where it is, as an editor finds it: the first line, and how many more say the same."""
    name = "stdin" if file == _STDIN else file
    return f"{name}:{_numbers([said.lines[0]] if said.left_out else said.lines)}"


def _numbers(lines: Sequence[int]) -> str:
    shown = [str(line) for line in lines]
    return ",".join(shown if len(shown) <= _LINES_SHOWN else [*shown[:_LINES_SHOWN], f"… ({len(shown)} lines)"])
