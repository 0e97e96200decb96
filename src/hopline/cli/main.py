"""The command `hopline`: a noun, a verb, and one line on stderr when it goes wrong.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage; `diff`: 0 the same, 1 different, 2 anything else. A noun's
module is loaded only when the noun is used, and the client only when a verb runs, so that help and completion are
quick.
"""

import io
import os
import sys
from importlib import import_module

import click

from hopline import __version__
from hopline.cli import output
from hopline.cli.grammar import ComparisonFailed, Group, common_options
from hopline.errors import HoplineError, VerifierRefusal

# noun or verb → where its command is, and its line in the help
_COMMANDS = {
    "apply": ("intent:apply", "Make the intent what a document says."),
    "backend": ("balance.backend:backend", "The servers that share a service's flows."),
    "completion": ("completion:completion", "Print the script that completes hopline's words in a shell."),
    "confirm": ("intent:confirm", "Keep the change that waits to be confirmed."),
    "decap": ("balance.decap:decap", "Whose outer headers are taken off here, on a backend."),
    "detach": ("detach:detach", "Remove this instance from the kernel and keep its intent."),
    "diff": ("intent:diff", "Show what `apply` would add, change and remove."),
    "doctor": ("doctor:doctor", "Check this host for what stops or slows Hopline."),
    "explain": ("explain:explain", "What would be done with a packet, and why."),
    "export": ("intent:export", "Print the intent as a document."),
    "forward": ("forward:forward", "Where packets to a destination go next."),
    "history": ("intent:history", "The last changes of the intent: when, by whom, what."),
    "interface": ("interface:interface", "The devices whose packets Hopline handles."),
    "lab": ("lab:lab", "Try it in network namespaces."),
    "program": ("program:program", "Anyone's BPF program: loaded, pinned, counted, unloaded."),
    "rollback": ("intent:rollback", "Make the intent what it was after a change."),
    "serve": ("serve:serve", "Run the daemon of an instance."),
    "service": ("balance.service:service", "Addresses whose flows backends share."),
    "status": ("status:status", "What the daemon does, and what stops it from doing more."),
    "upgrade": ("upgrade:upgrade", "Swap in this version's program where another's forwards."),
}


class _Root(Group):
    """The top of the grammar; imports a command's module when it is called or its own help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of the alphabet."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"hopline.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list from the table, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(
    cls=_Root, name="hopline", invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, "-V", "--version", message="hopline %(version)s")
@common_options
@click.pass_context
def root(ctx: click.Context) -> None:
    """Hopline, a programmable next hop: which interface and MAC addresses are next, decided in the kernel."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code. Everything that goes wrong is one line on stderr."""
    output.open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # what the terminal's character set lacks is still shown
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result = root.main(args=arguments, prog_name="hopline", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) and not isinstance(result, bool) else 0
    except ComparisonFailed as failed:
        return _told(failed.__cause__ or failed, 2)
    except (Exception, KeyboardInterrupt) as error:
        return _told(error, 1)


def _told(error: BaseException, code: int) -> int:
    """Say what went wrong; return `code`, or the exit code that this kind of failure has anyway."""
    if isinstance(error, click.UsageError):
        hint = f": see `{error.ctx.command_path} --help`" if error.ctx else ""
        return _say(f"{_chain(error.format_message())}{hint}", 2)
    if isinstance(error, click.ClickException):
        return _say(_chain(error.format_message()), max(code, error.exit_code))
    if isinstance(error, HoplineError):
        if isinstance(error, VerifierRefusal) and os.environ.get("HOPLINE_DEBUG"):
            click.echo(error.log, err=True, nl=False)
        return _say(str(error), code)
    if isinstance(error, KeyboardInterrupt | click.Abort | EOFError):
        return 130
    if isinstance(error, BrokenPipeError):
        # nobody reads on
        output.give_up()
        return code
    if isinstance(error, OSError):
        if output.is_stuck(error):
            output.give_up()
            done = "what the command did stays done, only its answer is lost"
            return _say(f"write to stdout: {os.strerror(error.errno or 0).lower()}: {done}", code)
        what = f"{error.filename}: " if error.filename else ""
        reason = os.strerror(error.errno).lower() if error.errno else str(error).lower()
        return _say(f"{what}{reason}{': do this as root' if isinstance(error, PermissionError) else ''}", code)
    if os.environ.get("HOPLINE_DEBUG"):
        raise error
    todo = "set HOPLINE_DEBUG=1 for the whole story, and report it"
    return _say(f"a fault of hopline's own ({type(error).__name__}: {error}): {todo}", code)


def _say(text: str, code: int) -> int:
    output.error(text)
    return code


def _chain(text: str) -> str:
    """Return click's sentences as one lower-case chain."""
    sentences = " ".join(text.split()).rstrip(".").split(". ")
    return ": ".join(sentence[:1].lower() + sentence[1:] for sentence in sentences)


if __name__ == "__main__":
    sys.exit(main())
