"""`hopline lab`: real packets in network namespaces of their own."""

import sys

import click

from hopline.cli.grammar import Group


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def lab(ctx: click.Context) -> None:
    """Try Hopline in network namespaces of its own."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@lab.command(short_help="Tell the story of `forward`, with real packets.")
@click.option("--keep", is_flag=True, help="Leave the namespaces up afterwards; `hopline lab down` removes them.")
def forward(keep: bool) -> int:
    """Three hosts and a next hop: the story of `forward`, step by step; exits 1 if a step differs."""
    from hopline.lab import forward as story

    return story.run(keep, sys.stdout)


@lab.command()
def down() -> None:
    """Remove what a lab left behind."""
    from hopline.lab import down as remove

    for namespace in remove():
        click.echo(f"removed {namespace}")
