"""`hopline decap`: whose outer headers are taken off here."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hopline.cli import output
from hopline.cli.grammar import Noun, client, common_options, json_option

if TYPE_CHECKING:
    from hopline.config.service import Encap

F = TypeVar("F", bound=Callable[..., Any])

_COLUMNS = ["LOCAL", "FROM", "ENCAP", "PACKETS", "BYTES", "PROBLEM"]


@click.group(cls=Noun)
@common_options
def decap() -> None:
    """Whose outer headers are taken off here, on a backend; alone, it shows them."""


def _which(function: F) -> F:
    """Give a command what tells one entry from others."""
    for decorate in (
        click.option("--encap", type=click.Choice(["ipip", "gue"]), default="ipip", show_default=True),
        click.option("--from", "from_", metavar="PREFIX|any", required=True, help="Whose packets are accepted."),
        click.option("--local", metavar="ADDR", required=True, help="The address of this host that they come to."),
    ):
        function = decorate(function)
    return function


@decap.command()
@_which
@click.option("--gue-port", type=int, metavar="N", help="The UDP port, of gue; 6080 unless told.")
@json_option
@common_options
def add(local: str, from_: str, encap: "Encap", gue_port: int | None, as_json: bool) -> None:
    """Take packets out that come encapsulated to an address of this host, from those who may."""
    row = client().decap.add(local, from_, encap=encap, **({} if gue_port is None else {"gue_port": gue_port}))
    if as_json:
        output.json(row)
    output.warn(row.problems)


@decap.command("del")
@_which
@common_options
def del_(local: str, from_: str, encap: "Encap") -> None:
    """Stop that: such packets are the kernel's again."""
    client().decap.delete(local, from_, encap=encap)


@decap.command()
@json_option
@common_options
def show(as_json: bool) -> None:
    """Show the entries, with what was taken out by each."""
    rows = client().decap.show()
    if as_json:
        output.json(rows)
        return
    cells: list[list[object]] = []
    for row in rows:
        entry = row.decap
        encap = entry.encap if entry.encap == "ipip" else f"gue:{entry.gue_port}"
        cells.append([entry.local, entry.from_, encap, row.packets, row.bytes, "; ".join(row.problems) or None])
    output.table(_COLUMNS, cells, right=["PACKETS", "BYTES"])
