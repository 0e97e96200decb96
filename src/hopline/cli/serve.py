"""`hopline serve`: run the daemon of an instance."""

from typing import Any

import click

from hopline.cli.grammar import common_options, instance, target


@click.command()
@click.option("--state", metavar="DIR", help="Where intent is kept; /var/lib/hopline/NAME unless told.")
@click.option("--view-group", metavar="GROUP", help="The group, by name or number, that may look but not change.")
@click.option("--listen", metavar="ADDR:PORT", multiple=True, help="Also answer the API over TCP; may be repeated.")
@click.option("--token-file", metavar="FILE", help="Who may use it: lines `admin|view TOKEN [NAME]`.")
@click.option("--tls-cert", metavar="FILE", help="Certificate (PEM) of --listen; needed beyond loopback.")
@click.option("--tls-key", metavar="FILE", help="Its private key (PEM).")
@click.option("--metrics", metavar="ADDR:PORT", help="Show metrics for Prometheus, and /healthz, to all who ask here.")
@click.option("--fwd-api", metavar="ADDR:PORT", help="Also answer the fwd service's JSON API here.")
@click.option("--fwd-api-allow", metavar="CIDR", multiple=True, help="Who may use it; needed beyond loopback.")
@click.option("--cache-size", type=int, metavar="ENTRIES", help="Entries of the cache, rounded up to a power of two.")
@click.option("--flow-table", type=int, metavar="FLOWS", help="Flows that services can remember, 16 octets each; 2^20.")
@click.option("--check-every", type=float, metavar="SECONDS", help="How often the kernel is compared; 60 unless told.")
@click.option("--trace", is_flag=True, help="Print each packet's decision; slow, for labs and debugging.")
@common_options
def serve(**given: Any) -> int:
    """Run the daemon of an instance until SIGTERM; forwarding goes on without it."""
    from hopline.daemon.options import serve_options

    told = {name: value for name, value in given.items() if value is not None}
    options = serve_options(instance=instance(), run=target().run, **told)
    from hopline.daemon.main import run

    return run(options)
