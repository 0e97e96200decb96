"""`hopline backend`: the servers that share a service's flows."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hopline.cli import output
from hopline.cli.balance.drain import drain, undrain
from hopline.cli.balance.names import complete_backends, complete_services
from hopline.cli.grammar import Duration, Noun, client, common_options, complete_devices, json_option

if TYPE_CHECKING:
    from hopline.daemon.protocol import BackendChanged, BackendRow

F = TypeVar("F", bound=Callable[..., Any])

_COLUMNS = ["SERVICE", "ADDRESS", "WEIGHT", "STATE", "SHARE", "FLOWS", "DEV", "NEXT-HOP", "MAC", "REASON"]
_NONE_FOR_NOTHING = ("via", "dst_mac", "dev")  # what "" takes away


@click.group(cls=Noun)
@common_options
def backend() -> None:
    """The servers that share a service's flows; alone, it shows them."""


def _which(function: F) -> F:
    """Give a command the service and the backend it is about."""
    function = click.argument("address", metavar="ADDR", shell_complete=complete_backends)(function)
    return click.argument("service", shell_complete=complete_services)(function)


def _settings(function: F) -> F:
    """Give a command what may be said of a backend."""
    for decorate in (
        click.option("--dev", metavar="DEV", help="The device to leave by.", shell_complete=complete_devices),
        click.option("--dst-mac", metavar="MAC", help="The MAC address to send to."),
        click.option("--via", metavar="ADDR", help="The next hop; by the host's routes unless told."),
        click.option("--weight", type=int, metavar="N", help="Its share beside the others', 0 for none; 1."),
    ):
        function = decorate(function)
    return function


@backend.command()
@_which
@_settings
@json_option
@common_options
def add(service: str, address: str, as_json: bool, **settings: Any) -> None:
    """Let ADDR take its share of a service's flows."""
    _check(settings)
    _tell(client().backend.add(service, address, **_given(settings)), as_json)


@backend.command("set")
@_which
@_settings
@json_option
@common_options
def set_(service: str, address: str, as_json: bool, **settings: Any) -> None:
    """Change a backend's weight or the way to it; what is not given stays, and "" takes a way away."""
    given = _given(settings)
    if not given:
        raise click.UsageError("nothing to set: give --weight, --via, or --dst-mac", click.get_current_context())
    _check(settings, whole=False)
    _tell(client().backend.set(service, address, **given), as_json)


@backend.command("del")
@_which
@click.option("--grace", type=Duration(zero=True), metavar="S", help="How long it keeps its flows; --idle unless told.")
@json_option
@common_options
def del_(service: str, address: str, grace: float | None, as_json: bool) -> None:
    """Remove a backend: new flows go elsewhere at once, those it has when the grace is over."""
    _tell(client().backend.delete(service, address, grace=grace), as_json)


backend.add_command(drain)
backend.add_command(undrain)


@backend.command()
@click.argument("service", required=False, shell_complete=complete_services)
@json_option
@common_options
def show(service: str | None, as_json: bool) -> None:
    """Show the backends of all services, or of SERVICE, with the way to each."""
    rows = client().backend.show(service)
    if as_json:
        output.json(rows)
        return
    cells = [_cells(row.service.name, one) for row in rows for one in row.backends]
    output.table(_COLUMNS, cells, right=["WEIGHT", "SHARE", "FLOWS"])


def _cells(service: str, one: "BackendRow") -> list[object]:
    share = None if one.share is None else f"{one.share:.2%}"
    way = [one.dev, one.next_hop, one.mac]
    return [service, one.address, one.weight, one.state, share, one.remembered, *way, one.reason or None]


def _check(settings: dict[str, Any], whole: bool = True) -> None:
    """Refuse a command line that names two ways; or half of one, where it has to be `whole`."""
    ctx = click.get_current_context()
    via, dst_mac, dev = settings["via"], settings["dst_mac"], settings["dev"]
    if via and dst_mac:
        raise click.UsageError("--via finds the MAC address itself: give --via, or --dst-mac and --dev", ctx)
    if whole and dst_mac is not None and dev is None:
        raise click.UsageError("--dst-mac needs the device that it is reached by: give --dev too", ctx)
    if whole and dev is not None and dst_mac is None and via is None:
        raise click.UsageError("--dev alone is no way: give --dst-mac too, or --via", ctx)


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in settings.items() if value is not None}
    return {name: None if value == "" and name in _NONE_FOR_NOTHING else value for name, value in found.items()}


def _tell(changed: "BackendChanged", as_json: bool) -> None:
    if as_json:
        output.json(changed)
    output.warn(changed.warnings)
