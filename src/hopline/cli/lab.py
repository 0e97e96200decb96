"""`hopline lab`: real packets in network namespaces of their own."""

import sys

import click

from hopline.cli import output
from hopline.cli.grammar import Group, json_option


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


@lab.command(short_help="Tell the story of `balance`, with real servers.")
@click.option("--keep", is_flag=True, help="Leave the namespaces up afterwards; `hopline lab down` removes them.")
def balance(keep: bool) -> int:
    """Three real servers behind one address: the story of `balance`, step by step; exits 1 if a step differs."""
    from hopline.lab import balance as story

    return story.run(keep, sys.stdout)


def _complete_lessons(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from hopline.lab.program.lessons import lessons

    return [lesson.name for lesson in lessons() if lesson.name.startswith(incomplete)]


@lab.command(short_help="A lesson in XDP or LWT programs, with real packets.")
@click.argument("lesson", required=False, shell_complete=_complete_lessons)
@click.option("--keep", is_flag=True, help="Leave the namespaces up afterwards; `hopline lab down` removes them.")
@json_option
def program(lesson: str | None, keep: bool, as_json: bool) -> int:
    """Go through a lesson's page, command by command; exits 1 if something is not as the page says.

    Without LESSON, list them.
    """
    from hopline.lab import program as told

    if lesson is not None:
        if as_json:
            raise click.UsageError("--json is for the list: leave LESSON out")
        return told.run(lesson, keep, sys.stdout)
    if keep:
        raise click.UsageError("--keep needs a LESSON: name one")
    from hopline.lab.program.lessons import lessons

    rows = [{"name": each.name, "title": each.title} for each in lessons()]
    if as_json:
        output.json(rows)
    else:
        wide = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            click.echo(f"{row['name']:{wide}}  {row['title']}")
    return 0


@lab.command()
def down() -> None:
    """Remove what a lab left behind."""
    from hopline.lab import down as remove

    for namespace in remove():
        click.echo(f"removed {namespace}")
