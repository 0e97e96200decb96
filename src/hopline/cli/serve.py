"""`hopline serve`: run the daemon of an instance."""

import click

from hopline.cli.grammar import common_options, instance, target


@click.command()
@click.option("--state", metavar="DIR", help="Where intent is kept; /var/lib/hopline/NAME unless told.")
@click.option("--fwd-api", metavar="ADDR:PORT", help="Also answer the fwd service's JSON API here.")
@click.option("--fwd-api-allow", metavar="CIDR", multiple=True, help="Who may use it; needed beyond loopback.")
@click.option("--cache-size", type=int, metavar="ENTRIES", help="Entries of the cache, rounded up to a power of two.")
@click.option("--trace", is_flag=True, help="Print each packet's decision; slow, for labs and debugging.")
@common_options
def serve(
    state: str | None, fwd_api: str | None, fwd_api_allow: tuple[str, ...], cache_size: int | None, trace: bool
) -> int:
    """Run the daemon of an instance until SIGTERM; forwarding goes on without it."""
    from hopline.daemon.options import CACHE_SIZE_DEFAULT, serve_options

    options = serve_options(
        instance=instance(),
        state=state,
        run=target().run,
        fwd_api=fwd_api,
        fwd_api_allow=fwd_api_allow,
        cache_size=CACHE_SIZE_DEFAULT if cache_size is None else cache_size,
        trace=trace,
    )
    from hopline.daemon.main import run

    return run(options)
