"""What a shell completes where a service or a backend is named; nothing if the daemon does not answer at once."""

import click

from hopline.cli.grammar import quick_client


def complete_services(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of services."""
    from hopline.errors import HoplineError

    try:
        rows = quick_client(ctx).service.show()
    except HoplineError:
        return []
    return [row.service.name for row in rows if row.service.name.startswith(incomplete)]


def complete_backends(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the backends of the service that is named before."""
    from hopline.errors import HoplineError

    try:
        rows = quick_client(ctx).service.show(ctx.params.get("service"))
    except HoplineError:
        return []
    return sorted({one.address for row in rows for one in row.backends if one.address.startswith(incomplete)})
