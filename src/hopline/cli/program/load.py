"""`hopline program load` and `unload`: a program on a device or a route, and off it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from hopline.cli import output
from hopline.cli.grammar import Duration, complete_devices, json_option

if TYPE_CHECKING:
    from hopline.host.program.load import Loaded, Unloaded

_MODES = click.Choice(["auto", "native", "generic", "offload"])
_HOOKS = click.Choice(["in", "out", "xmit", "seg6local"])
_OF_DEVICES = {"mode": "--mode", "pin": "--pin", "reuse_maps": "--reuse-maps"}
_OF_ROUTES = {"hook": "--hook", "via": "--via", "dev": "--dev", "headroom": "--headroom"}


def _load_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in reversed(
        (
            click.option("--route", metavar="PREFIX", help="Load on the route to PREFIX instead of a device."),
            click.option("--hook", type=_HOOKS, help="Where on the route."),
            click.option("--via", metavar="ADDR", help="The next hop of a route that is not there yet."),
            click.option("--dev", metavar="DEV", help="The device of such a route.", shell_complete=complete_devices),
            click.option("--headroom", type=click.IntRange(1, 256), metavar="N", help="Octets that xmit will push."),
            click.option("--program", metavar="NAME", help="The function, where FILE has several."),
            click.option("--section", metavar="NAME", help="The same by the name of its section."),
            click.option(
                "--mode", type=_MODES, help="native: in the driver; generic: after it; offload: in the device."
            ),
            click.option("--pin", is_flag=True, help="Pin the program and its maps."),
            click.option("--set", "variables", multiple=True, metavar="VAR=VALUE", help="Set a global variable."),
            click.option(
                "--reuse-maps", is_flag=True, help="Take over the maps of the program before, and their contents."
            ),
            click.option("--replace", is_flag=True, help="Take the place of a program that is there."),
            click.option("--for", "seconds", type=Duration(), help="Unload by itself after 60s, 5m or 1h."),
            json_option,
        )
    ):
        function = decorate(function)
    return function


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[DEV] FILE")
@_load_options
def load(words: tuple[str, ...], route: str | None, as_json: bool, **options: Any) -> None:
    """Attach a program of FILE, an object, to the device DEV, or by --route and --hook to a route."""
    _refuse_empty(words, route=route, **options)
    if route is None:
        _load_on_device(words, as_json, options)
    else:
        _load_on_route(words, route, as_json, options)


def _usage(text: str) -> click.UsageError:
    return click.UsageError(text, click.get_current_context())


def _refuse_empty(words: tuple[str | None, ...], **options: Any) -> None:
    """Refuse an empty word, as of a script's unset variable."""
    if "" in words:
        raise _usage("an empty word is no device and no file")
    for option, value in options.items():
        if value == "":
            raise _usage(f"--{option} is empty")


def _refuse(options: dict[str, Any], names: dict[str, str], why: str) -> None:
    for option, flag in names.items():
        if options.pop(option):
            raise _usage(f"{flag} is {why}")


def _load_on_device(words: tuple[str, ...], as_json: bool, options: dict[str, Any]) -> None:
    if len(words) != 2:
        raise _usage("give a device and a file, or --route and a file")
    _refuse(options, _OF_ROUTES, "for routes: give --route too")
    from hopline.host.program.load import load as load_on_device

    options["mode"] = options["mode"] or "auto"
    loaded = load_on_device(*words, **options)
    if as_json:
        output.json(loaded)
        return
    click.echo(_told(loaded))
    output.warn(loaded.notes)


def _load_on_route(words: tuple[str, ...], route: str, as_json: bool, options: dict[str, Any]) -> None:
    if len(words) != 1:
        raise _usage("with --route give no device but a file alone: the route's device is --dev")
    _refuse(options, _OF_DEVICES, "for devices: leave it out")
    if options["hook"] is None:
        raise _usage("give --hook with --route: in, out, xmit or seg6local")
    from hopline.host.program import identity, routes

    where = {name: options.pop(name) for name in _OF_ROUTES}
    loaded = routes.load(words[0], routes.request(route, **where), **options)
    if as_json:
        output.json(loaded)
    else:
        click.echo(identity.sentence(loaded))
        output.warn(loaded.notes)


def _told(loaded: "Loaded") -> str:
    """Return what load did, in lines."""
    lines = [f"{loaded.device}: {loaded.program} (id {loaded.id}) attached in {loaded.mode} mode"]
    if loaded.replaced:
        lines[0] += f", instead of {loaded.replaced.program} (id {loaded.replaced.id})"
    if loaded.until is not None:
        from hopline.host.program.record import clock

        lines[0] += f", until {clock(loaded.until)}"
    lines += [f"    pinned {path}" for path in loaded.pins]
    reused = [f"{one.name} (id {one.id})" for one in loaded.maps if one.reused]
    lines += [f"    reused {', '.join(reused)}"] if reused else []
    return "\n".join(lines)


@click.command()
@click.argument("dev", required=False, shell_complete=complete_devices)
@click.option("--route", metavar="PREFIX", help="Unload from the route to PREFIX instead of a device.")
@click.option("--program", metavar="NAME", help="The program of this name, whoever loaded it.")
@click.option("--id", type=click.IntRange(1), metavar="N", help="The program of this id, whoever loaded it.")
@click.option("--all", "everything", is_flag=True, help="All that is there, whoever loaded it.")
@json_option
def unload(
    dev: str | None, route: str | None, program: str | None, id: int | None, everything: bool, as_json: bool
) -> None:
    """Take what hopline loaded off the device DEV or a route; of others' programs only what is named."""
    _refuse_empty((dev,), route=route, program=program)
    if (dev is None) == (route is None):
        raise _usage("give a device or --route, one of them")
    if everything and (program or id):
        raise _usage("--all means more than --program or --id: give one")
    lines: list[str]
    taken: list[Any]
    notes: list[str] = []
    if route is None:
        from hopline.host.program.load import unload as unload_from_device

        taken = unload_from_device(str(dev), program=program, id=id, everything=everything)
        lines = [_untold(one) for one in taken]
        notes = [note for one in taken for note in one.notes]
    else:
        from hopline.host.program import identity, routes

        taken = routes.unload(route, program=program, id=id, everything=everything)
        lines = [identity.sentence(one) for one in taken]
    if as_json:
        output.json(taken)
    else:
        click.echo("\n".join(lines))
        output.warn(notes)


def _untold(taken: "Unloaded") -> str:
    if taken.attached:
        return f"{taken.device}: {taken.program} (id {taken.id}) detached"
    known = f"{taken.program} (id {taken.id})" if taken.program else "the program"
    return f"{taken.device}: {known} was not attached any more: what was left of it is removed"
