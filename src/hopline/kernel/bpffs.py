"""Where pins go: a bpffs that outlives the process and its namespaces, mounted if there is none."""

import errno
import fcntl
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hopline.errors import InvalidInput, KernelError
from hopline.kernel import netns
from hopline.kernel._libbpf import ffi, lib

BPF_FS_MAGIC = 0xCAFE4A11
USUAL = Path("/sys/fs/bpf")

# instances have names that any program can make in bpffs, which takes no dots (see _make)
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
    ours = os.stat("/proc/self/ns/mnt").st_ino
    for pid in netns.lineage():
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


def shown(path: Path) -> str:
    """A path below root() as the host has it; root() may be a way to it that is this process's alone."""
    return str(USUAL / path.relative_to(root()))


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


def program_dir(name: str, create: bool = True) -> Path:
    """`<root>/hopline/.programs/NETNS-INODE/NAME`, for pins of programs on a device of the calling thread's namespace.

    NAME is a device's, or one that no device can have; with `create` false ask is_there().
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > 255:
        raise InvalidInput("pin", f"{name!r} is no name for a directory")
    place = root() / "hopline" / ".programs" / str(netns.inode()) / name
    if create:
        try:
            for step in (place.parents[2], place.parents[1], place.parent, place):
                _make(step)
        except OSError as error:
            raise KernelError(f"make {place}", error.errno or 0, "run as root") from error
    return place


def is_there(place: Path) -> bool:
    """Whether a pin or directory of bpffs is there, which answers EPERM where there is none of a name with a dot."""
    try:
        return place.exists()
    except PermissionError:
        return False


def _make(place: Path) -> None:
    if not is_there(place):
        with dotted(place):
            place.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def dotted(place: Path) -> Iterator[None]:
    """While it lasts, `place` can be made or renamed to although its name has a dot.

    bpffs refuses to look up such a name unless its directory has mode 0 (kernel/bpf/inode.c, bpf_lookup). What is there
    is found without asking it.
    """
    if "." not in place.name:
        yield
        return
    directory = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # another process may be at it: its mode 0 is not the one to go back to
        fcntl.flock(directory, fcntl.LOCK_EX)
        mode = stat.S_IMODE(os.fstat(directory).st_mode)
        os.fchmod(directory, 0)
        try:
            yield
        finally:
            os.fchmod(directory, mode or 0o700)
    finally:
        os.close(directory)
