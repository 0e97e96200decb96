"""`hopline program show`: which programs there are, and where."""

import time
from typing import TYPE_CHECKING

import click

from hopline.cli import output
from hopline.cli.grammar import complete_devices, json_option

if TYPE_CHECKING:
    from hopline.host.program.show import Shown

_COLUMNS = ["WHERE", "HOOK", "PROGRAM", "ID", "TAG", "LOADED", "UID", "LICENCE", "XLATED", "JITED", "LOCKED", "MAPS",
            "RUNS", "NS/RUN", "BY"]  # fmt: skip
_MAPS = 4  # ids that the table has room for
_RIGHT = ["ID", "UID", "XLATED", "JITED", "LOCKED", "RUNS", "NS/RUN"]


@click.command()
@click.argument("dev", required=False, shell_complete=complete_devices)
@json_option
def show(dev: str | None, as_json: bool) -> None:
    """Every XDP and LWT program of this host, or those of DEV: where it is, what it is, and what it has cost."""
    from hopline.host.program.show import show as show_programs

    rows = show_programs(dev)
    if any(row.device and row.name == "" for row in rows):
        output.warn(["what is attached has a name, an owner and more, which only root is told: do this as root"])
    if as_json:
        output.json(rows)
    elif rows:
        output.table(_COLUMNS, [_row(row) for row in rows], right=_RIGHT)
    else:
        click.echo(f"no program is on {dev}" if dev else "no xdp or lwt program is loaded")


def _row(row: "Shown") -> list[object]:
    where = f"route {row.route}" + (f" table {row.table}" if row.table != "main" else "") if row.route else row.device
    hook = f"{row.hook} {row.mode}" if row.mode else row.hook
    loaded = row.loaded_at and time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.loaded_at))
    licence = None if row.gpl is None else "GPL" if row.gpl else "not GPL"
    sizes = [row.xlated_bytes, row.jited_bytes, row.locked_bytes]
    ids = [str(number) for number in row.map_ids or ()]
    maps = ",".join(ids[:_MAPS] + ["…"] * (len(ids) > _MAPS)) or None
    mean = None if row.ns_a_run is None else round(row.ns_a_run)
    return [where, hook, row.name, row.id, row.tag, loaded, row.uid, licence, *sizes, maps, row.runs, mean, _by(row)]


def _by(row: "Shown") -> str | None:
    """Return who loaded it, as far as is known."""
    if row.instance:
        return f"instance {row.instance}"
    if row.late:
        return f"hopline, {row.late}: unload it"
    if row.until is not None:
        from hopline.host.program.record import clock

        return f"hopline, until {clock(row.until)}"
    if row.ours:
        return "hopline, pinned" if row.pins else "hopline"
    return f"link {row.link_id}" if row.link_id else None
