"""`hopline program`: anyone's BPF program, loaded, pinned, counted, unloaded.

It acts on this host; no daemon is needed.
"""

from importlib import import_module

import click

from hopline.cli.grammar import Noun

# verb → where its command is, and its line in the help; a verb's module is loaded only when it is used
_VERBS = {
    "build": ("build:build", "Compile a program, with the right flags and headers."),
    "inspect": ("build:inspect", "What is in an object: programs, maps, variables, licence."),
    "load": ("load:load", "Attach a program to a device or a route."),
    "log": ("log:log", "What programs print, with program and time."),
    "map": ("map:map_", "Read and write the maps of programs."),
    "show": ("show:show", "Every XDP and LWT program of this host, ours or not."),
    "stats": ("stats:stats", "What a device's program decides, by verdict, live."),
    "unload": ("load:unload", "Take a program off a device or a route."),
}


class _Verbs(Noun):
    """The verbs of a noun whose modules are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all verbs, in the order of the alphabet."""
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one verb, or the one that an alias means."""
        known = super().get_command(ctx, cmd_name)
        if known is not None or cmd_name not in _VERBS:
            return known
        module, _, attribute = _VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"hopline.cli.program.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list from the table, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _VERBS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Verbs)
def program() -> None:
    """Load, pin, count and unload BPF programs on devices (XDP) and routes (LWT)."""
