"""`hopline backend drain` and `undrain`, and what they wait for."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hopline.cli import output
from hopline.cli.balance.names import complete_backends, complete_services
from hopline.cli.grammar import Duration, client, common_options, json_option

if TYPE_CHECKING:
    from hopline.client import Client
    from hopline.daemon.protocol import BackendChanged, DrainState

F = TypeVar("F", bound=Callable[..., Any])

_QUIET_S = 60.0  # without a packet of a flow, unless the service forgets flows sooner
_LAG = 15  # when a flow was seen last is written down late, by idle / 16 at most (bpf/lib/flow.h)
_LOOK_S = 1.0
_TAKES_FLOWS = ("up", "unchecked")


def _which(waits_for: str) -> Callable[[F], F]:
    """Give a command the backend it is about, and whether to wait."""

    def decorate(function: F) -> F:
        for option in (
            json_option,
            click.option(
                "--timeout", type=Duration(), metavar="S", help="Wait no longer than this; --idle unless told."
            ),
            click.option("--wait", is_flag=True, help=waits_for),
            click.argument("address", metavar="ADDR", shell_complete=complete_backends),
            click.argument("service", shell_complete=complete_services),
        ):
            function = option(function)
        return function

    return decorate


@click.command(short_help="Let a backend take no new flow; it keeps those it has.")
@_which("Until no flow of it is seen any more.")
@common_options
def drain(service: str, address: str, wait: bool, timeout: float | None, as_json: bool) -> int:
    """Let a backend take no new flow; it keeps those it has.

    With --wait, say how many of them are still seen, and return when none was for a minute (or --idle, if that is less;
    a 15th of it, if that is more); exits 1 if there still are when the time is over.
    """
    _check(wait, timeout)
    verbs = client()
    changed = verbs.backend.drain(service, address)
    if not wait:
        _tell(changed, as_json)
        return 0
    output.warn(changed.warnings)
    idle = verbs.service.show(service)[0].service.idle
    left, quiet = _drained(
        verbs, service, address, min(max(_QUIET_S, idle / _LAG), idle), timeout or idle, talk=not as_json
    )
    if as_json:
        output.json(left)
    return int(not quiet)


@click.command(short_help="Let a backend take flows again as its weight says.")
@_which("Until it is up, and the way to it is known.")
@common_options
def undrain(service: str, address: str, wait: bool, timeout: float | None, as_json: bool) -> int:
    """Let a backend take flows again as its weight says.

    With --wait, return when it does: it is up, and the way to it is known; exits 1 if not when the time is over.
    """
    _check(wait, timeout)
    verbs = client()
    changed = verbs.backend.undrain(service, address)
    end = time.monotonic() + (timeout or verbs.service.show(service)[0].service.idle) if wait else 0
    while wait and not _takes_flows(changed, address) and time.monotonic() < end:
        time.sleep(_LOOK_S)
        changed = _now(verbs, service, address)
    _tell(changed, as_json)
    if not wait or _takes_flows(changed, address):
        return 0
    output.error(f"backend undrain {service} {address}: takes no flow yet: {_why_not(changed, address)}")
    return 1


def _drained(
    verbs: "Client", service: str, address: str, quiet: float, timeout: float, talk: bool
) -> "tuple[DrainState, bool]":
    """Look until no flow was seen for `quiet` seconds, or for `timeout`; return what is left, and whether it was so."""
    began = moved = time.monotonic()
    told: tuple[int, int] | None = None
    packets = -1
    while True:
        now = time.monotonic()
        # those seen before it was drained are not to count
        left = verbs.backend.drained(service, address, since=min(quiet, now - began))
        if left.packets != packets:
            moved, packets = now, left.packets
        done = not left.flows and now - moved >= quiet
        if talk and (left.flows, left.remembered) != told:
            told = (left.flows, left.remembered)
            click.echo(f"{service} {address}: {_flows(left)}")
        if done or now - began >= timeout:
            _tell_end(service, address, left, quiet if done else None, now - began, talk)
            return left, done
        time.sleep(_LOOK_S)


def _flows(left: "DrainState") -> str:
    seen = "1 flow" if left.flows == 1 else f"{left.flows} flows"
    return f"{seen} seen, {left.remembered} remembered"


def _tell_end(service: str, address: str, left: "DrainState", quiet: float | None, seconds: float, talk: bool) -> None:
    if quiet is None:
        more = "" if left.flows else ", but packets of flows that are not remembered"
        output.error(
            f"backend drain {service} {address}: after {seconds:.0f} s, {_flows(left)}{more}: it stays drained"
        )
    elif talk:
        silent = f"; {left.remembered} silent ones are remembered" if left.remembered else ""
        click.echo(f"{service} {address}: no flow seen for {quiet:g} s{silent}")


def _why_not(changed: "BackendChanged", address: str) -> str:
    for one in changed.backends:
        if one.address == address:
            return f"it is {one.state}{f': {one.reason}' if one.reason else ''}"
    return "it is not there any more"


def _takes_flows(changed: "BackendChanged", address: str) -> bool:
    return any(one.address == address and one.state in _TAKES_FLOWS for one in changed.backends)


def _now(verbs: "Client", service: str, address: str) -> "BackendChanged":
    from hopline.daemon.protocol import BackendChanged

    rows = [one for row in verbs.backend.show(service) for one in row.backends if one.address == address]
    return BackendChanged(service, rows)


def _check(wait: bool, timeout: float | None) -> None:
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait: give both", click.get_current_context())


def _tell(changed: "BackendChanged", as_json: bool) -> None:
    if as_json:
        output.json(changed)
    output.warn(changed.warnings)
