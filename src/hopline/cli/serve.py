"""`hopline serve`: run the daemon of an instance."""

from pathlib import Path

import click

from hopline.cli.grammar import common_options, instance, target

# bit numbers in linux/capability.h
_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21
_CAP_BPF = 39


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
    missing = missing_rights(Path("/proc/self/status").read_text())
    if missing:
        raise click.ClickException(f"serve: no {' and no '.join(missing)}: run it as root")
    from hopline.daemon.main import run

    return run(options)


def missing_rights(status: str) -> list[str]:
    """Return the capabilities that the daemon needs and a process lacks, by the text of its /proc/PID/status."""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    missing = []
    if not effective >> _CAP_NET_ADMIN & 1:
        missing.append("CAP_NET_ADMIN")
    if not (effective >> _CAP_BPF & 1 or effective >> _CAP_SYS_ADMIN & 1):
        missing.append("CAP_BPF")
    return missing
