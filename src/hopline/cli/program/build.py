"""`hopline program build` and `inspect`: a source compiled, and what is in an object."""

from typing import TYPE_CHECKING

import click

from hopline.cli import output
from hopline.cli.grammar import json_option
from hopline.cli.program.stream import shown

if TYPE_CHECKING:
    from hopline.host.program.build import Inside

_FILE = click.Path(dir_okay=False)


@click.command()
@click.argument("file", type=_FILE, metavar="FILE.bpf.c")
@click.option("-o", "--out", type=_FILE, metavar="OUT", help="The object's name; FILE.bpf.o unless told.")
def build(file: str, out: str | None) -> None:
    """Compile FILE with the right flags and headers; what the compiler says is shown as it is."""
    from hopline.host.program.build import build as compile_source

    click.echo(compile_source(file, out))


@click.command()
@click.argument("file", type=_FILE, metavar="FILE.bpf.o")
@json_option
def inspect(file: str, as_json: bool) -> None:
    """Show what is in the object FILE: programs, maps, variables, licence."""
    from hopline.host.program.build import inspect as look_into

    inside = look_into(file)
    if as_json:
        output.json(inside)
        return
    click.echo(f"{inside.file}: licence {shown(inside.licence) or 'not stated'}")
    _tables(inside)


def _tables(inside: "Inside") -> None:
    click.echo()
    programs = [(p.name, shown(p.section), p.type or "the hook's", p.instructions) for p in inside.programs]
    output.table(["PROGRAM", "SECTION", "TYPE", "INSTRUCTIONS"], programs, right=["INSTRUCTIONS"])
    if inside.maps:
        click.echo()
        maps = [(m.name, m.type, _sized(m.key, m.key_size), _sized(m.value, m.value_size), m.max_entries)
                for m in inside.maps]  # fmt: skip
        output.table(["MAP", "TYPE", "KEY", "VALUE", "MAX-ENTRIES"], maps, right=["MAX-ENTRIES"])
    if inside.variables:
        click.echo()
        variables = [(v.name, v.type, v.value, "yes" if v.settable else "no", shown(v.description) or None)
                     for v in inside.variables]  # fmt: skip
        output.table(["VARIABLE", "TYPE", "VALUE", "SETTABLE", "DESCRIPTION"], variables)


def _sized(type: str, size: int) -> str | None:
    """Return a type in words, or its octets where it has no name."""
    return type or (f"{size} octets" if size else None)
