"""`hopline forward`: where packets to a destination go next."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import AF_INET, AF_INET6, inet_pton
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from hopline.cli import difference, output
from hopline.cli.grammar import (
    Noun,
    client,
    common_options,
    complete_destinations,
    complete_devices,
    complete_interfaces,
    json_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from hopline.client import LoadFormat, Progress
    from hopline.config import Origin
    from hopline.daemon.protocol import ForwardAnswer, ForwardRow


@click.group(cls=Noun)
@common_options
def forward() -> None:
    """Where packets to a destination go next; alone, it shows the entries."""


def _next_hop(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command DEST and the two ways to name a next hop."""
    for decorate in (
        click.option("--via", metavar="ADDR", help="The next hop's address; its MAC address is followed."),
        click.option("--src-mac", metavar="MAC", help="The source MAC address; the device's own unless told."),
        click.option("--dst-mac", metavar="MAC", help="The next hop's MAC address."),
        click.option("--dev", metavar="DEV", help="The device to leave by.", shell_complete=complete_devices),
        click.argument("dest"),
    ):
        function = decorate(function)
    return function


@forward.command()
@_next_hop
@common_options
def add(dest: str, **next_hop: str | None) -> None:
    """Enter DEST, an address or a prefix: by --dev and --dst-mac, or by --via."""
    _check(next_hop)
    client().forward.add(dest, **next_hop)


@forward.command()
@_next_hop
@common_options
def replace(dest: str, **next_hop: str | None) -> None:
    """Enter DEST, or change where it goes."""
    _check(next_hop)
    client().forward.replace(dest, **next_hop)


@forward.command("del")
@click.argument("dest", shell_complete=complete_destinations)
@common_options
def del_(dest: str) -> None:
    """Remove the operator's entry to DEST."""
    client().forward.delete(dest)


@forward.command()
@click.argument("dest", required=False, shell_complete=complete_destinations)
@click.option("--origin", type=click.Choice(["operator", "learned"]), help="Only entries of this origin.")
@click.option("--limit", type=click.IntRange(1, 999_999_999), metavar="N", help="At most this many.")
@click.option("--next-hops", is_flag=True, help="Show next hops with their packets and bytes instead.")
@json_option
@common_options
def show(dest: str | None, origin: "Origin | None", limit: int | None, next_hops: bool, as_json: bool) -> None:
    """Show the entries, or the one to DEST."""
    if next_hops:
        if dest is not None or origin is not None or limit is not None:
            raise click.UsageError("--next-hops shows all: leave the rest out", click.get_current_context())
        _show_next_hops(as_json)
        return
    rows = sorted(client().forward.show(dest, origin=origin, limit=limit), key=_place)
    if as_json:
        output.json(rows)
        return
    columns = ["DESTINATION", "DEV", "SRC-MAC", "DST-MAC", "ORIGIN", "FRESH"]
    output.table(columns, [(r.to, r.dev, r.src_mac, r.dst_mac, r.origin, r.fresh or None) for r in rows])


@forward.command()
@click.argument("address", metavar="ADDR")
@click.option("--in", "in_dev", metavar="DEV", help="The device it came in by.", shell_complete=complete_interfaces)
@json_option
@common_options
def get(address: str, in_dev: str | None, as_json: bool) -> None:
    """Say what a packet to ADDR would get, from where, and why."""
    answer = client().forward.get(address, in_dev=in_dev)
    if as_json:
        output.json(answer)
        return
    click.echo(_sentence(answer))
    for reason in answer.why:
        click.echo(f"    {reason}")


@forward.command()
@click.option("--origin", type=click.Choice(["learned"]), required=True, help="The entries to forget.")
@json_option
@common_options
def flush(origin: "Origin", as_json: bool) -> None:
    """Forget all learned entries; they are learned again as packets come."""
    forgotten = client().forward.flush(origin=origin)
    if as_json:
        output.json({"changed": forgotten})
    else:
        click.echo(f"{forgotten} learned {'entry' if forgotten == 1 else 'entries'} forgotten")


@forward.command(short_help="Enter as many as a file has.")
@click.argument("file", type=click.Path(allow_dash=True))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "jsonl"]),
    help="What FILE is; by its name (.csv, .jsonl, .ndjson) or its first bytes unless told.",
)
@json_option
@common_options
def load(file: str, kind: "LoadFormat | None", as_json: bool) -> None:
    """Enter and change as many as FILE has (- is stdin), all or nothing.

    CSV has a header line with the columns to, dev, src_mac, dst_mac, via, in any order, of which some may be absent;
    JSON lines have one forward a line.
    """
    began = time.monotonic()
    naming = output.InvalidValues(f"forward load {file}", file, changed=True)
    with naming, _opened(file) as source, _progress(file, source) as progress:
        done = client().forward.load(source, format=kind, progress=progress)
    seconds = time.monotonic() - began
    if as_json:
        output.json(done)
    elif difference.differs(done):
        added, changed = difference.total(done, "added"), difference.total(done, "changed")
        entries = "1 entry" if added + changed == 1 else f"{added + changed} entries"
        click.echo(f"{entries} in {seconds:.1f} s: {added} added, {changed} changed: change {done.revision} is done")
    else:
        click.echo(f"nothing to change: the intent already has all that {file} says ({seconds:.1f} s)")
    output.warn(done.warnings)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
    else:
        with open(file, "rb") as source:
            yield source


@contextmanager
def _progress(file: str, source: BinaryIO) -> "Iterator[Progress | None]":
    """Draw on stderr how much has been sent, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich

    status = os.fstat(source.fileno())
    total = status.st_size or None  # a pipe has no size
    columns = (
        rich.SpinnerColumn(),
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeElapsedColumn(),
    )
    with rich.Progress(*columns, console=_stderr(), transient=True) as drawn:
        task = drawn.add_task(f"sending {file}", total=total)

        def sent(count: int) -> None:
            drawn.update(task, completed=count)
            if count == total:
                # the rest is the daemon's, and how far it is nobody knows
                drawn.update(task, description=f"entering {file}")

        yield sent


def _stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _check(next_hop: dict[str, str | None]) -> None:
    """Refuse a command line that names no next hop, or two."""
    ctx = click.get_current_context()
    via, dst_mac, src_mac = next_hop["via"], next_hop["dst_mac"], next_hop["src_mac"]
    if via is not None and (dst_mac is not None or src_mac is not None):
        raise click.UsageError("--via finds the MAC addresses itself: give --via, or --dev and --dst-mac", ctx)
    if via is None and (next_hop["dev"] is None or dst_mac is None):
        raise click.UsageError("no next hop: give --dev DEV --dst-mac MAC, or --via ADDR", ctx)


def _place(row: "ForwardRow") -> tuple[bool, bool, bytes, int]:
    """Return what rows are sorted by: the operator's first, then by address; the cache has them in no order."""
    address, _, length = row.to.partition("/")
    six = ":" in address
    packed = inet_pton(AF_INET6 if six else AF_INET, address)
    return row.origin != "operator", six, packed, int(length or 128)


def _show_next_hops(as_json: bool) -> None:
    rows = client().forward.next_hops()
    if as_json:
        output.json(rows)
        return
    columns = ["DEV", "SRC-MAC", "DST-MAC", "MTU", "ENTRIES", "PACKETS", "BYTES"]
    cells = [(r.dev, r.src_mac, r.dst_mac, r.mtu, r.entries, r.packets, r.bytes) for r in rows]
    output.table(columns, cells, right=["MTU", "ENTRIES", "PACKETS", "BYTES"])


def _sentence(answer: "ForwardAnswer") -> str:
    """Return one line in the manner of `ip route get`."""
    parts = [answer.address]
    named = {"via": answer.via, "dev": answer.dev, "src-mac": answer.src_mac, "dst-mac": answer.dst_mac}
    named |= {"mtu": None if answer.mtu is None else str(answer.mtu), "origin": answer.origin, "entry": answer.entry}
    for name, value in named.items():
        if value is not None:
            parts += [name, value]
    parts += ["verdict", answer.verdict]
    return " ".join([*parts, "cached"] if answer.cached else parts)
