"""Where pins go: a bpffs that outlives the process and its namespaces, mounted if there is none."""

import errno
import os
import re
import subprocess
from functools import cache
from pathlib import Path

from hopline.errors import InvalidInput, KernelError
from hopline.kernel._libbpf import ffi, lib

BPF_FS_MAGIC = 0xCAFE4A11
USUAL = Path("/sys/fs/bpf")

# bpffs refuses every name with a dot
NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


def is_bpffs(path: Path) -> bool:
    """Whether `path` lies on a bpffs."""
    return bool(lib.hl_filesystem(ffi.new("char[]", os.fsencode(path))) == BPF_FS_MAGIC)


@cache
def root() -> Path:
    """A bpffs for pins: the usual mount, else that of PID 1 or of an ancestor, else one mounted there now.

    KernelError if that fails. The path is good for this process; another may have to take another way.
    """
    if is_bpffs(USUAL):
        return USUAL
    outer = _outer_process()
    place = _seen_by(outer) if outer else USUAL
    if is_bpffs(place):
        return place
    # a mount made in another mount namespace would end with it, and the pins with the mount
    enter = ["nsenter", "--target", str(outer), "--mount"] if outer else []
    command = [*enter, "mount", "-t", "bpf", "bpf", str(USUAL)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    place = _seen_by(outer) if outer else USUAL
    if not is_bpffs(place):
        said = made.stderr.strip().splitlines()
        raise KernelError(f"mount bpffs on {USUAL}", errno.EPERM, said[-1].lower() if said else "mount it by hand")
    return place


def _outer_process() -> int:
    """PID 1, or the oldest ancestor we may look at, if it lives in another mount namespace than we; else 0.

    `ip netns exec` mounts a fresh /sys in a mount namespace of its own; those who started it see the real one.
    In a sandbox PID 1 may be out of reach for root, too.
    """
    ancestors, pid = [1], os.getpid()
    while pid > 1:
        ancestors.insert(1, pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    ours = os.stat("/proc/self/ns/mnt").st_ino
    for pid in ancestors:
        try:
            return pid if os.stat(f"/proc/{pid}/ns/mnt").st_ino != ours else 0
        except OSError:
            continue
    return 0


def _seen_by(pid: int) -> Path:
    """The usual mount as another process sees it, held open: it may end, and the right to look into it be given up."""
    place = Path(f"/proc/{pid}/root{USUAL}")
    if not is_bpffs(place):
        return place
    return Path(f"/proc/self/fd/{os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}")


def check_name(name: str) -> str:
    """`name` if it can name an instance or a pin, else InvalidInput."""
    if not NAME.fullmatch(name):
        raise InvalidInput("instance", f"{name!r} is no name for pins", "1 to 32 of letters, digits, _ and -")
    return name


def instance_dir(name: str, create: bool = True) -> Path:
    """`<root>/hopline/NAME`, mode 0700, made if missing unless `create` is false."""
    place = root() / "hopline" / check_name(name)
    if create:
        try:
            place.parent.mkdir(mode=0o700, exist_ok=True)
            place.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise KernelError(f"make {place}", error.errno or 0, "run as root") from error
    return place
