"""`hopline program stats`: what the program of a device decides, by verdict."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hopline.cli import output
from hopline.cli.grammar import Duration, complete_devices, json_option
from hopline.cli.program.stream import json_line, until_stopped

if TYPE_CHECKING:
    from hopline.host.program.stats import Sample, Stats

_LEAST_S = 0.1
_VERDICTS = ("VERDICT", "PACKETS", "PPS", "BYTES", "MBIT/S")
_RUNS = ("RUNS", "RUNS/S", "NS A RUN")


@click.command(short_help="What a device's program decides, by verdict, live.")
@click.argument("device", metavar="DEV", shell_complete=complete_devices)
@click.option("--interval", type=Duration(), default=1.0, metavar="S", help="Time between readings; 1s unless told.")
@click.option("--once", is_flag=True, help="End after one interval.")
@json_option
@click.pass_context
def stats(ctx: click.Context, device: str, interval: float, once: bool, as_json: bool) -> None:
    """Show packets and bytes by verdict of the XDP program on a device, until Ctrl-C.

    They are read from the program's own array of counters by XDP action, which is found through BTF; of a program that
    has none, its runs and ns a run are shown, as counted by the kernel meanwhile. Where output is no terminal, each
    reading is a line of JSON.
    """
    if interval < _LEAST_S:
        raise click.UsageError(f"--interval: {interval:g} s is too short: give {_LEAST_S} s or more", ctx)
    from hopline.host.program.stats import Stats

    with until_stopped(), Stats(device) as source:
        if as_json or not sys.stdout.isatty():
            for sample in _samples(source, interval, once):
                json_line(sample)
        elif once:
            for sample in _samples(source, interval, once):
                click.echo("\n".join(_lines(sample)))
        else:
            _live(source, interval)


def _samples(source: "Stats", interval: float, once: bool) -> "Iterator[Sample]":
    """Take the readings after the first, which is what the second's rates are relative to."""
    source.sample()
    while True:
        time.sleep(interval)
        yield source.sample()
        if once:
            return


def _live(source: "Stats", interval: float) -> None:
    from rich.live import Live
    from rich.text import Text

    def drawn(sample: "Sample") -> Text:
        return Text("\n".join(_lines(sample)), no_wrap=True, overflow="crop")

    with Live(drawn(source.sample()), auto_refresh=False) as screen:
        for sample in _samples(source, interval, once=False):
            screen.update(drawn(sample), refresh=True)


def _lines(sample: "Sample") -> list[str]:
    """Return a reading as a person reads it."""
    head = _head(sample)
    if sample.runs is not None:
        runs = sample.runs
        row = (runs.runs, _number(runs.per_s, 0), _number(runs.ns, 0))
        return [head, sample.note, *output.aligned(_RUNS, [row], right=_RUNS)]
    rows = [
        (one.verdict, one.packets, _number(one.pps, 0), one.bytes, _number(one.mbit_s, 3)) for one in sample.verdicts
    ]
    return [head, *output.aligned(_VERDICTS, rows, right=_VERDICTS[1:])] if rows else [head]


def _head(sample: "Sample") -> str:
    if sample.program is None:
        return f"{sample.device}: {sample.note}: waiting for one"
    head = f"{sample.device}: {sample.program} (id {sample.program_id}), {sample.mode} mode"
    if sample.map is not None:
        return f"{head}, by its map {sample.map} (id {sample.map_id})"
    return head


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
