"""`hopline interface`: the devices whose packets Hopline handles."""

from typing import TYPE_CHECKING

import click

from hopline.cli import output
from hopline.cli.grammar import (
    Noun,
    client,
    common_options,
    complete_devices,
    complete_interfaces,
    json_option,
)

if TYPE_CHECKING:
    from hopline.config import Mode
    from hopline.daemon.protocol import InterfaceAdded, InterfaceState

_MODES = click.Choice(["auto", "native", "generic"])
_MODE_HELP = "native: in the driver; generic: after it."


@click.group(cls=Noun)
@common_options
def interface() -> None:
    """The devices whose packets Hopline handles; alone, it shows them."""


@interface.command()
@click.argument("dev", shell_complete=complete_devices)
@click.option("--mode", type=_MODES, default="auto", show_default=True, help=_MODE_HELP)
@click.option("--bypass-policy", is_flag=True, help="Learn from the FIB even where XDP skips netfilter, xfrm or tc.")
@click.option("--replace", is_flag=True, help="Take the device over from another program.")
@json_option
@common_options
def add(dev: str, mode: "Mode", bypass_policy: bool, replace: bool, as_json: bool) -> None:
    """Handle what DEV receives."""
    added = client().interface.add(dev, mode=mode, bypass_policy=bypass_policy, replace=replace)
    _tell(added, as_json)


@interface.command("set")
@click.argument("dev", shell_complete=complete_interfaces)
@click.option("--mode", type=_MODES, help=_MODE_HELP)
@click.option("--bypass-policy/--no-bypass-policy", default=None, help="Learn from the FIB whatever XDP skips.")
@json_option
@common_options
def set_(dev: str, mode: "Mode | None", bypass_policy: bool | None, as_json: bool) -> None:
    """Change DEV's settings; what is not given stays."""
    if mode is None and bypass_policy is None:
        raise click.UsageError("nothing to set: give --mode or --bypass-policy", click.get_current_context())
    _tell(client().interface.set(dev, mode=mode, bypass_policy=bypass_policy), as_json)


@interface.command("del")
@click.argument("dev", shell_complete=complete_interfaces)
@common_options
def del_(dev: str) -> None:
    """Stop handling what DEV receives."""
    client().interface.delete(dev)


@interface.command()
@click.argument("dev", required=False, shell_complete=complete_interfaces)
@json_option
@common_options
def show(dev: str | None, as_json: bool) -> None:
    """Show all interfaces, or DEV."""
    states = client().interface.show(dev)
    if as_json:
        output.json(states)
        return
    columns = ["DEV", "INDEX", "MODE", "PROGRAM", "STEPS", "LEARNING", "STATE"]
    output.table(columns, [_row(state) for state in states], right=["INDEX"])


def learning(state: "InterfaceState") -> str:
    """Return one word or two on what is learned from the FIB."""
    on = [family for family, is_on in state.learning.items() if is_on]
    return "off" if not on else "on" if len(on) == len(state.learning) else f"{' '.join(on)} only"


def _row(state: "InterfaceState") -> list[object]:
    mode = f"{state.mode or '-'} ({state.wanted_mode})" if state.mode != state.wanted_mode else state.mode
    program = None if state.program is None else f"{state.program}/{state.program_id}"
    steps = " ".join(state.steps) or None
    word = "attached" if state.attached else f"not attached: {state.problem or 'unknown'}"
    return [state.name, state.index, mode, program, steps, learning(state), word]


def _tell(added: "InterfaceAdded", as_json: bool) -> None:
    if as_json:
        output.json(added)
        return
    state = added.state
    if state.attached:
        click.echo(f"{state.name}: attached, {state.mode} mode, learning {learning(state)}")
    problem = [] if state.attached else [f"{state.name}: {state.problem}"]
    # each begins with the family
    forbids = [f"{state.name}: not learning {reason}" for reason in state.forbids]
    output.warn([*problem, *added.warnings, *forbids])
