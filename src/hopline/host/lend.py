"""What a daemon may not open by itself, pinned where it finds it while it is asked for an interface.

The daemon has given up CAP_SYS_ADMIN (docs/rights.md); who asks it on the same host may still have it.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hopline.errors import HoplineError, NotFound


@contextmanager
def lent(instance: str, pid: int, namespace: int, dev: str, *, replace: bool) -> Iterator[None]:
    """While the block runs, `instance` can open the program that another put on its device `dev`, so it can name it.

    With `replace` also the link that holds it, so it can take it off. `pid` and `namespace` (inode) are the daemon's,
    as `status` says. Where lending is impossible (no right, no such device, another host) nothing is lent and no error
    raised: the daemon says what it lacks.
    """
    pins: list[Path] = []
    # who asks from afar need not have libbpf
    with suppress(HoplineError, OSError, ImportError):
        pins = _lend(instance, _namespace(pid, namespace), dev, replace)
    try:
        yield
    finally:
        for pin in pins:
            pin.unlink(missing_ok=True)


def traps_seen(pid: int, namespace: int, dev: str) -> list[str]:
    """Return the traps of the daemon's device `dev`, those too that its peer's namespace must be entered for.

    Where that is impossible there are none: the daemon says what it sees by itself.
    """
    from hopline.kernel import netns
    from hopline.kernel.netlink.traps import traps

    with suppress(HoplineError, OSError):
        place = _namespace(pid, namespace)
        index = socket.if_nametoindex(dev) if place is None else netns.run_in(place, socket.if_nametoindex, dev)
        return traps(index) if place is None else netns.run_in(place, traps, index)
    return []


def _lend(instance: str, namespace: Path | None, dev: str, link: bool) -> list[Path]:
    from hopline.kernel import bpffs, foreign, netns

    directory = bpffs.instance_dir(instance, create=False)

    def lend() -> list[Path]:
        return foreign.lend(socket.if_nametoindex(dev), directory, link=link)

    return lend() if namespace is None else netns.run_in(namespace, lend)


def _namespace(pid: int, inode: int) -> Path | None:
    """The file of the network namespace with this number, None where it is our own; NotFound if it is out of reach."""
    from hopline.kernel import netns

    if netns.inode() == inode:
        return None
    # the daemon's pid is another process's where it runs in another pid namespace
    places = [netns.path_of(pid), *map(netns.path_of, netns.names())]
    for place in places:
        with suppress(OSError):
            if os.stat(place).st_ino == inode:
                return place
    raise NotFound(f"network namespace {inode}: not in reach: run this where the daemon runs")
