"""`hopline service`: addresses whose flows backends share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hopline.cli import output
from hopline.cli.balance.ipvs import import_ipvs
from hopline.cli.balance.names import complete_services
from hopline.cli.grammar import Noun, client, common_options, complete_interfaces, json_option

if TYPE_CHECKING:
    from hopline.daemon.protocol import ServiceChanged

F = TypeVar("F", bound=Callable[..., Any])

_ENCAPS = click.Choice(["ipip", "gue"])
_AFFINITIES = click.Choice(["ring", "table"])
_OWNERS = click.Choice(["routed", "on-wire"])
_WAYS = click.Choice(["backend", "vip"])
_ALL_DOWN = click.Choice(["keep", "refuse"])
_ECHO = click.Choice(["answer", "pass"])
_yes_option = click.option("--yes", is_flag=True, help="Even if the VIP is the address that you are logged in by.")
_NONE_FOR_NOTHING = ("local", "own_dev")  # settings that "" takes away


@click.group(cls=Noun)
@common_options
def service() -> None:
    """Addresses whose flows backends share; alone, it shows them."""


def _settings(required: bool) -> Callable[[F], F]:
    """Give a command what may be said of a service."""

    def decorate(function: F) -> F:
        for option in reversed(
            (
                click.option("--vip", metavar="ADDR", required=required, help="The address that clients know."),
                click.option("--port", metavar="N|N-M|any", required=required, help="Its port, or ports."),
                click.option("--protocol", type=click.Choice(["tcp", "udp", "both"]), required=required),
                click.option("--encap", type=_ENCAPS, help="How packets get to backends; ipip unless told."),
                click.option("--gue-port", type=int, metavar="N", help="Their UDP port, of gue; 6080 unless told."),
                click.option("--local", metavar="ADDR|PREFIX", help="The outer source; the device's unless told."),
                click.option(
                    "--ring", type=int, metavar="N", help="Slots that backends share, a prime; 65537 unless told."
                ),
                click.option("--seed", type=int, metavar="N", help="Of the flow's hash; nodes with one seed agree."),
                click.option("--affinity", type=_AFFINITIES, help="table: remember every flow; ring unless told."),
                click.option(
                    "--idle", type=int, metavar="S", help="How long a silent flow is remembered; 900 unless told."
                ),
                click.option("--own", type=_OWNERS, help="on-wire: Hopline adds the VIP to a device."),
                click.option("--own-dev", metavar="DEV", help="That device.", shell_complete=complete_interfaces),
                click.option(
                    "--check", metavar="tcp|icmp|http://…|none", help="How backends are checked; not unless told."
                ),
                click.option("--check-via", type=_WAYS, help="vip: by the tunnel, to the VIP itself."),
                click.option(
                    "--interval", type=float, metavar="S", help="Between two checks of a backend; 2 unless told."
                ),
                click.option("--rise", type=int, metavar="N", help="Checks that pass before it is up; 2 unless told."),
                click.option(
                    "--fall", type=int, metavar="N", help="Checks that fail before it is down; 3 unless told."
                ),
                click.option("--expect", metavar="N-M", help="HTTP statuses that pass; 200-399 unless told."),
                click.option("--all-down", type=_ALL_DOWN, help="When no backend is up; keep: send all the same."),
                click.option("--icmp-echo", type=_ECHO, help="A ping to the VIP; answer unless told."),
            )
        ):
            function = option(function)
        return function

    return decorate


@service.command()
@click.argument("name")
@_settings(required=True)
@_yes_option
@json_option
@common_options
def add(name: str, yes: bool, as_json: bool, **settings: Any) -> None:
    """Share what comes to a VIP among backends, which `hopline backend add` names."""
    _refuse_connected(f"service add {name}", settings["vip"], yes)
    _tell(client().service.add(name, **_given(settings)), as_json)


@service.command("set")
@click.argument("name", shell_complete=complete_services)
@_settings(required=False)
@_yes_option
@json_option
@common_options
def set_(name: str, yes: bool, as_json: bool, **settings: Any) -> None:
    """Change a service's settings; what is not given stays, and "" takes --local and --own-dev away."""
    given = _given(settings)
    if not given:
        raise click.UsageError("nothing to set: give a setting, such as --idle", click.get_current_context())
    _refuse_connected(f"service set {name}", settings["vip"], yes)
    _tell(client().service.set(name, **given), as_json)


@service.command("del")
@click.argument("name", shell_complete=complete_services)
@common_options
def del_(name: str) -> None:
    """Stop sharing: its flows end."""
    client().service.delete(name)


@service.command()
@click.argument("name", required=False, shell_complete=complete_services)
@click.option("--stats", is_flag=True, help="Connections, packets and bytes so far.")
@click.option("--rate", is_flag=True, help="The same by second; on a terminal until Ctrl-C.")
@click.option("--flows", is_flag=True, help="What is remembered, and what there was no room for.")
@click.option("--ring", is_flag=True, help="Slots by state and by backend, beside their exact shares.")
@json_option
@common_options
def show(name: str | None, as_json: bool, **views: bool) -> None:
    """Show all services, or NAME, with their backends."""
    from hopline.cli.balance import listing, rate

    chosen = [view for view, given in views.items() if given]
    if len(chosen) > 1:
        raise click.UsageError(
            f"--{chosen[0]} and --{chosen[1]} are two listings: give one", click.get_current_context()
        )
    what = chosen[0] if chosen else None
    verbs = client().service
    if what == "rate":
        rate.show(lambda: verbs.show(name, stats=True), as_json)
        return
    rows = verbs.show(name, stats=what == "stats", flows=what in (None, "flows"), ring=what in (None, "ring"))
    if as_json:
        output.json(rows)
    else:
        click.echo("\n".join(listing.lines(rows, what)))


service.add_command(import_ipvs)


def _refuse_connected(asked: str, vip: str | None, yes: bool) -> None:
    from hopline.config import canonical_host
    from hopline.host.connected import refuse_connected

    if vip is not None and not yes:
        refuse_connected(asked, canonical_host(vip, "vip"))


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are on the command line."""
    found = {name: value for name, value in settings.items() if value is not None}
    return {name: None if value == "" and name in _NONE_FOR_NOTHING else value for name, value in found.items()}


def _tell(changed: "ServiceChanged", as_json: bool) -> None:
    if as_json:
        output.json(changed)
    output.warn(changed.warnings)
