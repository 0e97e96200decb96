"""`hopline upgrade`: another version's program and maps, swapped in place for this one's while they forward."""

import click

from hopline.cli import output
from hopline.cli.grammar import common_options, instance, json_option


@click.command()
@common_options
@click.option("--dry-run", is_flag=True, help="Make and check all of it, then remove it again: nothing is swapped.")
@json_option
def upgrade(dry_run: bool, as_json: bool) -> None:
    """Swap what another version left in the kernel for this one's, in place: no entry and no packet is lost.

    Stop the daemon first; its interfaces forward on. What was cut short is completed by running it again.
    """
    from hopline.host.upgrade import upgrade as upgrade_host

    done = upgrade_host(instance(), dry_run)
    if as_json:
        output.json(done)
        return
    if not done.needed:
        click.echo(f"instance {done.instance} is of {done.after} already: nothing to do")
        return
    click.echo(f"instance {done.instance}: {done.before} → {done.after}")
    if not done.resumed:
        click.echo(
            f"{'would carry' if dry_run else 'carried'} {done.entries:,} entries by {done.next_hops:,} next hops"
        )
    for name in done.interfaces:
        click.echo(f"{name}: {'would be swapped' if dry_run else 'swapped'} in place")
    for remark in done.remarks:
        click.echo(remark)
    if done.resumed:
        click.echo("an upgrade that was cut short is complete")
    elif dry_run:
        click.echo("nothing was changed")
