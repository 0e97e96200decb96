"""`hopline program map`: the entries of any program's maps, by the names of their fields."""

import sys
from typing import TYPE_CHECKING

import click

from hopline.cli import output
from hopline.cli.grammar import Noun, json_option

if TYPE_CHECKING:
    from hopline.host.program.maps import MapRow

# a number may be negative
_WORDS = {"ignore_unknown_options": True}
_MOST = 3  # of what a map has several of, in a table; --json has all
_COLUMNS = ("ID", "TYPE", "NAME", "KEY", "SIZE", "VALUE", "SIZE", "ENTRIES", "FLAGS", "PROGRAMS", "PINS")


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of maps; none for who may not see them."""
    from hopline.errors import HoplineError
    from hopline.host.program.maps import names

    try:
        return [name for name in names() if name.startswith(incomplete)]
    except HoplineError:
        return []


_MAP = click.argument("name", metavar="MAP", shell_complete=_complete)


@click.group("map", cls=Noun)
def map_() -> None:
    """Read and write the maps of programs; alone, it lists them.

    MAP is an id, the path of a pin, a name, or DEV/NAME: a map of the program on a device. Keys and values are written
    by field, as in `packets=5 next.mac=02:00:00:00:00:01 ports=80,443`, or as one word where they have no fields.
    """


@map_.command()
@click.argument("name", metavar="[MAP]", required=False, shell_complete=_complete)
@json_option
def show(name: str | None, as_json: bool) -> None:
    """List all maps, or show one with the fields of its keys and values."""
    from hopline.host.program.maps import listed

    found = listed(name)
    if as_json:
        output.json(found)
        return
    output.table(_COLUMNS, [_cells(row) for row in found], right=("ID", "SIZE", "ENTRIES"))
    if name is not None:
        for row in found:
            for what, fields in (("key", row.key), ("value", row.value)):
                click.echo(f"{what}: {', '.join(f'{field.path} {field.type}'.strip() for field in fields)}")


def _cells(row: "MapRow") -> tuple[object, ...]:
    lists = (row.flags, [f"{user.name}({user.id})" for user in row.programs], row.pins)
    types = (row.key_type or None, row.key_size, row.value_type or None, row.value_size)
    return row.id, row.type, row.name or None, *types, row.max_entries, *map(_few, lists)


def _few(words: list[str]) -> str | None:
    """Return a list as one cell, of a long one how many more there are."""
    more = f",+{len(words) - _MOST}" if len(words) > _MOST else ""
    return ",".join(words[:_MOST]) + more if words else None


@map_.command(context_settings=_WORDS, short_help="Print the value of KEY.")
@_MAP
@click.argument("words", metavar="KEY...", nargs=-1, required=True, type=click.UNPROCESSED)
@json_option
def get(name: str, words: tuple[str, ...], as_json: bool) -> None:
    """Print the value of KEY; in an LPM trie, of the longest prefix around it."""
    from hopline.host.program.table import Table

    with Table(name) as table:
        entry = table.get(words)
        if as_json:
            output.json(entry.json())
        else:
            click.echo(entry.text(), nl=False)


@map_.command("set", context_settings=_WORDS, short_help="Give KEY a value, or some of its fields.")
@_MAP
@click.argument("words", metavar="KEY... VALUE...", nargs=-1, required=True, type=click.UNPROCESSED)
@json_option
def set_(name: str, words: tuple[str, ...], as_json: bool) -> None:
    """Give KEY a value; fields that are not named keep theirs, and per-CPU values are set on all CPUs.

    All fields of a key come first, then those of its value: `address=10.0.0.1 port=80 packets=0`. Where both have one
    of a name, write `key ... value ...`. What a program counts between reading and writing is lost.
    """
    from hopline.host.program.table import Table

    with Table(name) as table:
        entry = table.set(words)
        if as_json:
            output.json(entry.json())


@map_.command("del", context_settings=_WORDS)
@_MAP
@click.argument("words", metavar="KEY...", nargs=-1, required=True, type=click.UNPROCESSED)
@json_option
def del_(name: str, words: tuple[str, ...], as_json: bool) -> None:
    """Remove the entry of KEY."""
    from hopline.host.program.table import Table

    with Table(name) as table:
        key = table.delete(words)
        if as_json:
            output.json({"key": key})


@map_.command()
@_MAP
@json_option
def dump(name: str, as_json: bool) -> None:
    """Print all entries, in no order: a line each, or a JSON array."""
    from hopline.host.program.table import Table

    with Table(name) as table:
        for part in table.dump(as_json):
            sys.stdout.buffer.write(part)
