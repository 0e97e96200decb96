"""The command `hopline`: a noun, a verb, and one line on stderr when it goes wrong.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage. A noun's module is loaded only when the noun is used, and the
client only when a verb runs, so that help and completion are quick.
"""

import os
import sys
from importlib import import_module

import click

from hopline import __version__
from hopline.cli.grammar import Group, common_options
from hopline.errors import HoplineError

# noun or verb → where its command is, and its line in the help
_COMMANDS = {
    "completion": ("completion:completion", "Print the script that completes hopline's words in a shell."),
    "detach": ("detach:detach", "Remove this instance from the kernel and keep its intent."),
    "doctor": ("doctor:doctor", "Check this host for what stops or slows Hopline."),
    "forward": ("forward:forward", "Where packets to a destination go next."),
    "interface": ("interface:interface", "The devices whose packets Hopline handles."),
    "lab": ("lab:lab", "Try it in network namespaces."),
    "serve": ("serve:serve", "Run the daemon of an instance."),
    "status": ("status:status", "What the daemon does, and what stops it from doing more."),
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
    try:
        result = root.main(args=arguments, prog_name="hopline", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) and not isinstance(result, bool) else 0
    except click.UsageError as error:
        hint = f": see `{error.ctx.command_path} --help`" if error.ctx else ""
        return _say(f"{_chain(error.format_message())}{hint}", 2)
    except click.ClickException as error:
        return _say(_chain(error.format_message()), error.exit_code)
    except HoplineError as error:
        return _say(str(error), 1)
    except (KeyboardInterrupt, click.Abort, EOFError):
        return 130
    except BrokenPipeError:
        # nobody reads on; give the interpreter's last flush somewhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        reason = os.strerror(error.errno).lower() if error.errno else str(error).lower()
        return _say(f"{what}{reason}{': do this as root' if isinstance(error, PermissionError) else ''}", 1)
    except Exception as error:
        if os.environ.get("HOPLINE_DEBUG"):
            raise
        todo = "set HOPLINE_DEBUG=1 for the whole story, and report it"
        return _say(f"a fault of hopline's own ({type(error).__name__}: {error}): {todo}", 1)


def _say(text: str, code: int) -> int:
    line = " ".join(text.rstrip(".").split())
    # a name that cannot be encoded is still shown
    print(f"hopline: {line}".encode(errors="backslashreplace").decode(), file=sys.stderr)
    return code


def _chain(text: str) -> str:
    """Return click's sentences as one lower-case chain."""
    sentences = " ".join(text.split()).rstrip(".").split(". ")
    return ": ".join(sentence[:1].lower() + sentence[1:] for sentence in sentences)


if __name__ == "__main__":
    sys.exit(main())
