"""Where pins go: a bpffs that outlives the process and its namespaces, mounted if there is none."""

import errno
import os
import re
import subprocess
from pathlib import Path

from hopline.errors import InvalidInput, KernelError
from hopline.kernel._libbpf import ffi, lib

BPF_FS_MAGIC = 0xCAFE4A11
USUAL = Path("/sys/fs/bpf")
# `ip netns exec` mounts a fresh /sys over it; PID 1 still sees the real one
OF_PID_1 = Path("/proc/1/root/sys/fs/bpf")

# bpffs refuses every name with a dot
NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


def is_bpffs(path: Path) -> bool:
    """Whether `path` lies on a bpffs."""
    return bool(lib.hl_filesystem(ffi.new("char[]", os.fsencode(path))) == BPF_FS_MAGIC)


def root() -> Path:
    """A bpffs for pins: the usual mount, else PID 1's, else mounted there now. KernelError if that fails."""
    for place in (USUAL, OF_PID_1):
        if is_bpffs(place):
            return place
    try:
        ours = os.stat("/proc/self/ns/mnt").st_ino == os.stat("/proc/1/ns/mnt").st_ino
    except OSError as error:
        raise KernelError("find a bpffs", error.errno or errno.EPERM, "run as root, or mount one by hand") from error
    # a mount made in another mount namespace would end with it, and the pins with the mount
    enter = [] if ours else ["nsenter", "--target", "1", "--mount"]
    made = subprocess.run(
        [*enter, "mount", "-t", "bpf", "bpf", str(USUAL)], capture_output=True, text=True, check=False
    )
    place = USUAL if ours else OF_PID_1
    if not is_bpffs(place):
        said = made.stderr.strip().splitlines()
        raise KernelError(f"mount bpffs on {USUAL}", errno.EPERM, said[-1].lower() if said else "mount it by hand")
    return place


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
