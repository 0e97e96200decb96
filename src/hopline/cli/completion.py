"""`hopline completion`: the script that a shell sources."""

import click


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that SHELL (bash, zsh or fish) sources: `source <(hopline completion bash)`."""
    from click.shell_completion import get_completion_class

    from hopline.cli.main import root

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}", click.get_current_context())
    click.echo(kind(root, {}, "hopline", "_HOPLINE_COMPLETE").source())
