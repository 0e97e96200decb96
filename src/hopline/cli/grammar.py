"""What all nouns share: a bare noun shows, aliases, and `--instance` before or after the verb."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hopline.client import Client

F = TypeVar("F", bound=Callable[..., Any])

_ALIASES = {"list": "show", "ls": "show", "delete": "del", "rm": "del"}
_HELP = ("-h", "--help")
_TAKE_A_VALUE = ("--instance", "--run")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass
class Target:
    """Which daemon a command line means; None where it says nothing."""

    instance: str | None = None
    run: str | None = None


class Group(click.Group):
    """Knows the hidden aliases of verbs."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb of that name or alias."""
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, _ALIASES.get(cmd_name, ""))


class Noun(Group):
    """A noun: without a verb it means `show`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb in where it is left out: at the end, or before the first option that is not the noun's own."""
        place = 0
        while place < len(args) and args[place].partition("=")[0] in _TAKE_A_VALUE:
            place += 1 if "=" in args[place] else 2
        rest = args[place:]
        bare = not rest or (rest[0].startswith("-") and rest[0] not in _HELP)
        # resilient: a shell asks for completion of the verb itself
        if bare and not ctx.resilient_parsing:
            args = [*args[:place], "show", *rest]
        return super().parse_args(ctx, args)


class ComparisonFailed(Exception):
    """A comparison found no answer: its cause says why, and it exits with 2, for 1 says that the two differ."""


class Comparison(click.Command):
    """A command whose exit code is its answer: 0 the same, 1 different; whatever goes wrong is 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Compare, and see to it that what is said gets out before the answer is given."""
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
        except click.UsageError:
            raise
        except Exception as error:
            raise ComparisonFailed from error
        return answer


class Duration(click.ParamType):
    """A span of time: a number of seconds, or with s, m or h behind it."""

    name = "duration"

    def __init__(self, zero: bool = False) -> None:
        """`zero`: no time at all will do."""
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smh]?)", value, re.ASCII)
        if found is None or (float(found[1]) == 0 and not self._zero):
            self.fail(f"{value!r} is not a span of time: write 60s, 5m or 1h", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


def target(ctx: click.Context | None = None) -> Target:
    """Return the daemon that the command line means so far."""
    found = (ctx or click.get_current_context()).find_root().ensure_object(Target)
    return found


def _named(text: str | None) -> str:
    # an empty name, as of a script's unset variable, is a wrong name and not main
    return "main" if text is None else text


def instance() -> str:
    """Return the instance that the command line means, checked."""
    from hopline.config import instance_name

    return instance_name(_named(target().instance))


def client() -> "Client":
    """Return a client of the daemon that the command line means."""
    from hopline.client import connect

    return connect(instance(), target().run)


def quick_client(ctx: click.Context) -> "Client":
    """Return a client for what a shell completes, which waits for no daemon."""
    from hopline.client import connect

    meant = target(ctx)
    return connect(_named(meant.instance), meant.run, timeout=0.5)


def spelled(words: str) -> str:
    """Return a command as it is to be typed for the daemon that this command line means, in quotes."""
    import shlex

    meant = target()
    more = [("--instance", meant.instance), ("--run", meant.run)]
    return f"`hopline {words}{''.join(f' {flag} {shlex.quote(value)}' for flag, value in more if value)}`"


def common_options(function: F) -> F:
    """Give a command `--instance` and `--run`, which it does not see: `client()` and `instance()` do."""
    function = _target_option("--run", "run", "DIR", "Where the daemon's sockets are.")(function)
    return _target_option("--instance", "instance", "NAME", "The instance meant; main unless told.")(function)


def _target_option(flag: str, field: str, metavar: str, text: str) -> Callable[[F], F]:
    def store(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is None:
            return
        known = target(ctx)
        before = getattr(known, field)
        if before not in (None, value):
            raise click.UsageError(f"{flag} is given twice, as {before} and as {value}", ctx)
        setattr(known, field, value)

    return click.option(flag, metavar=metavar, help=text, expose_value=False, callback=store)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with the API's field names.")


def complete_devices(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return this network namespace's devices."""
    import socket

    return [name for _, name in socket.if_nameindex() if name.startswith(incomplete)]


def complete_destinations(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return some of the operator's destinations; none if the daemon does not answer at once."""
    from hopline.errors import HoplineError

    try:
        rows = quick_client(ctx).forward.show(origin="operator", limit=1000)
    except HoplineError:
        return []
    return [row.to for row in rows if row.to.startswith(incomplete)]


def complete_changes(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the numbers of the history; none if the daemon does not answer at once."""
    from hopline.errors import HoplineError

    try:
        rows = quick_client(ctx).history()
    except HoplineError:
        return []
    return [str(row.number) for row in rows if str(row.number).startswith(incomplete)]


def complete_interfaces(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the interfaces that Hopline has; none if the daemon does not answer at once."""
    from hopline.errors import HoplineError

    try:
        states = quick_client(ctx).interface.show()
    except HoplineError:
        return []
    return [state.name for state in states if state.name.startswith(incomplete)]
