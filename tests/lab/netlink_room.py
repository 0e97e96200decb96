"""A namespace for a test: `with room() as name`, commands in it by `shell(name, …)`, functions by netns.run_in."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hopline.kernel.netlink.features import told

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")
# on a kernel that does not tell what devices can do they are guessed by their kind
TELLS_FEATURES = told()
needs_told_features = pytest.mark.skipif(
    not TELLS_FEATURES, reason="this kernel does not tell what devices can do with XDP (netdev family, Linux 6.3)"
)

_numbers = itertools.count()


def shell(name: str, command: str) -> str:
    """Standard output of a shell command in a named namespace; fails when it fails."""
    argv = ["nsenter", f"--net=/run/netns/{name}", "sh", "-ec", command]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextmanager
def room(setup: str = "ip link set lo up") -> Iterator[str]:
    """A fresh namespace, gone afterwards."""
    name = f"hl-netlink-{os.getpid()}-{next(_numbers)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        shell(name, setup)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
