"""`hopline detach`: out of the kernel, with or without a daemon."""

import click

from hopline.cli.grammar import client, common_options, instance
from hopline.errors import Unavailable


@click.command()
@common_options
def detach() -> None:
    """Remove this instance from the kernel and keep its intent; the kernel alone forwards again."""
    try:
        client().detach()
    except Unavailable:
        # no daemon: what it left pinned is removed here
        from hopline.host.detach import detach as detach_host

        detach_host(instance())
