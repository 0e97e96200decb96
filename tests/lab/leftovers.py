"""What `hopline program` could leave behind: `everything` of two moments is the same, or something was left."""

import gc
import socket
from contextlib import suppress
from pathlib import Path

from hopline.errors import KernelError
from hopline.host.program import record
from hopline.kernel import netns
from hopline.kernel.link import query
from hopline.kernel.loaded import map_ids, map_info, program_ids
from hopline.kernel.netlink import encap
from hopline.kernel.program import Program
from lab.loading import left_of


def program_name(number: int) -> str:
    with Program.from_id(number) as program:
        return program.name


def in_kernel(prefix: str) -> list[str]:
    """Programs and maps whose names begin so, with their ids; those of other tests come and go meanwhile."""
    found = []
    for number in program_ids():
        with suppress(KernelError):
            found.append(f"{program_name(number)} program {number}")
    for number in map_ids():
        with suppress(KernelError):
            found.append(f"{map_info(number).name} map {number}")
    return [one for one in found if one.startswith(prefix)]


def keepers(ns: str) -> list[str]:
    """Processes that keep a program of that namespace for a time."""
    place = str(record.DIRECTORY / str(netns.inode(ns)))
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [path.parent.name] if place in path.read_text() else []
    return found


def network() -> dict[str, object]:
    """Devices with what is attached to them, and routes; of the calling thread's namespace."""
    six = [line.split() for line in Path("/proc/thread-self/net/ipv6_route").read_text().splitlines()]
    return {
        "devices": [(name, query(number)) for number, name in socket.if_nameindex()],
        "programs on routes": encap.hooked_routes(),
        "ipv4 routes": Path("/proc/thread-self/net/route").read_text(),
        # not how often they were used
        "ipv6 routes": sorted((*fields[:5], fields[9]) for fields in six),
    }


def everything(ns: str, prefix: str) -> dict[str, object]:
    """All of a namespace, and what is in the kernel under names that begin with `prefix`."""
    gc.collect()
    return {
        **netns.run_in(ns, network),
        "pins and records": left_of(ns),
        "in the kernel": in_kernel(prefix),
        "keepers": keepers(ns),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }
