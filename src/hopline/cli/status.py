"""`hopline status`: what the daemon does, and what stops it from doing more."""

from typing import TYPE_CHECKING

import click

from hopline.cli import output
from hopline.cli.grammar import client, common_options, json_option, spelled
from hopline.cli.interface import learning

if TYPE_CHECKING:
    from hopline.daemon.protocol import InterfaceState, Status


@click.command()
@json_option
@common_options
def status(as_json: bool) -> None:
    """What the daemon does, and what stops it from doing more."""
    found = client().status()
    if as_json:
        output.json(found)
        return
    for line in _head(found):
        click.echo(line)
    for state in found.interfaces:
        click.echo("")
        for line in _interface(state):
            click.echo(line)


def _head(found: "Status") -> list[str]:
    cache = found.cache
    return [
        f"instance {found.instance}: hopline {found.version}, process {found.pid}, up {_duration(found.uptime_s)}",
        f"    network namespace {found.netns}, generation {found.generation}, lease {found.lease_ms} ms",
        f"    entries: {found.entries.operator} operator, {found.entries.learned} learned;"
        f" cache: {cache.size_ipv4} IPv4, {cache.size_ipv6} IPv6",
        f"    intent: change {found.revision}{_repairs(found)}",
        *_pending(found),
        *(f"    note: {note}" for note in found.notes),
    ]


def _repairs(found: "Status") -> str:
    """Return what of the kernel had to be put right, if anything had."""
    said = [f"{count} {what}" for what, count in found.repairs.items() if count]
    return f"; drift repaired: {', '.join(said)}" if said else ""


def _pending(found: "Status") -> list[str]:
    if found.pending is None:
        return []
    left = f"{max(found.pending.left_s, 0):.0f} s"
    todo = f"{spelled('confirm')} keeps it"
    return [f"    change {found.pending.revision} waits to be confirmed and is rolled back in {left}: {todo}"]


def _interface(state: "InterfaceState") -> list[str]:
    if not state.attached:
        head = f"{state.name}: not attached: {state.problem or 'unknown'}"
    else:
        program = f"{state.program} (id {state.program_id}, tag {state.tag})"
        head = f"{state.name}: {state.mode} mode, program {program}, steps {' '.join(state.steps) or 'none'}"
    lines = [head, f"    learning {learning(state)}{', policy bypassed' if state.bypass_policy else ''}"]
    lines += [f"        because {reason}" for reason in state.forbids]
    lines += [f"    warning: {warning}" for warning in state.warnings]
    counted = [(name, count) for name, count in state.verdicts.items() if count.packets]
    if not counted:
        return [*lines, "    no packet yet"] if state.attached else lines
    counted.sort(key=lambda pair: -pair[1].packets)
    rows = [(name, count.packets, count.bytes) for name, count in counted]
    table = output.aligned(["VERDICT", "PACKETS", "BYTES"], rows, right=["PACKETS", "BYTES"])
    return [*lines, *(f"    {line}" for line in table)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{value} {unit}" for value, unit in parts if value]
    return " ".join(shown[:2]) or "0 s"
