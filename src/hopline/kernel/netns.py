"""Network namespaces without `ip netns exec`, which would mount a fresh /sys and hide the pins.

Entering changes one thread; the mount namespace, and so bpffs, stays.
"""

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from hopline.errors import HoplineError, InvalidInput, KernelError, NotFound
from hopline.kernel._libbpf import lib
from hopline.kernel.handle import check

CLONE_NEWNET = 0x40000000
DIRECTORY = Path("/run/netns")
CURRENT = Path("/proc/thread-self/ns/net")
_SO_NETNS_COOKIE = 71

P = ParamSpec("P")
T = TypeVar("T")


def path_of(namespace: str | int | Path) -> Path:
    """The file that stands for a namespace given by name (`ip netns`), process id or path."""
    if isinstance(namespace, int):
        return Path(f"/proc/{namespace}/ns/net")
    if isinstance(namespace, Path) or "/" in namespace:
        return Path(namespace)
    if namespace in ("", ".", "..") or "\0" in namespace:
        raise InvalidInput("namespace", f"{namespace!r} is no name")
    return DIRECTORY / namespace


def inode(namespace: str | int | Path | None = None) -> int:
    """The number that identifies a namespace; of the calling thread's own without an argument."""
    path = CURRENT if namespace is None else path_of(namespace)
    try:
        return path.stat().st_ino
    except OSError as error:
        raise NotFound(f"network namespace {namespace}: not there: see `ip netns list`") from error


def cookie() -> int:
    """A number of the calling thread's namespace that no other has until the next boot; 0 before Linux 5.14.

    The inode is another namespace's as soon as this one has gone.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0


def exists(name: str) -> bool:
    """Whether a named namespace is there and mounted (a name left over after a reboot is an empty file)."""
    path = path_of(name)
    # every namespace lies on the nsfs file system, all of one device
    return path.exists() and path.stat().st_dev == CURRENT.stat().st_dev


def names() -> list[str]:
    """The named namespaces."""
    return sorted(p.name for p in DIRECTORY.iterdir() if exists(p.name)) if DIRECTORY.is_dir() else []


@contextmanager
def inside(namespace: str | int | Path) -> Iterator[None]:
    """The calling thread acts in `namespace` until the block ends. Not across an `await`: others share the thread."""
    before = os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(namespace)
        try:
            yield
        finally:
            check(lib.hl_setns(before, CLONE_NEWNET), "return to the former network namespace")
    finally:
        os.close(before)


def _enter(namespace: str | int | Path) -> None:
    path = path_of(namespace)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"network namespace {namespace}: not there: see `ip netns list`") from error
    except OSError as error:
        raise KernelError(f"enter network namespace {namespace}", error.errno or errno.EPERM, "run as root") from error
    try:
        check(lib.hl_setns(fd, CLONE_NEWNET), f"enter network namespace {namespace}")
    finally:
        os.close(fd)


def lineage() -> list[int]:
    """PID 1, the ancestors of this process from the oldest on, and itself."""
    found, pid = [1], os.getpid()
    while pid > 1:
        found.insert(1, pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


@contextmanager
def outside() -> Iterator[None]:
    """The calling thread acts in the host's namespace until the block ends, for what must not hold its own.

    That is the one of PID 1, or of the oldest ancestor whose namespace may be entered: in a sandbox PID 1 may be out of
    reach for root, too. In that of this process it stays.
    """
    with ExitStack() as stack:
        for pid in lineage():
            try:
                stack.enter_context(inside(pid))
            except HoplineError:
                continue
            break
        yield


def run_in(namespace: str | int | Path, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(*args, **kwargs)` in a fresh thread inside `namespace`: its result, or the exception it raised."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            _enter(namespace)
            results.append(function(*args, **kwargs))
        except BaseException as error:  # handed to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=body, name=f"netns {namespace}", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def create(name: str) -> None:
    """Make a named namespace, as `ip netns add` does; KernelError EEXIST if there is one."""
    from pyroute2 import netns

    path_of(name)
    try:
        netns.create(name)
    except OSError as error:
        raise KernelError(f"create network namespace {name}", error.errno or 0) from error


def delete(name: str, missing_ok: bool = False) -> None:
    """Remove the name; the namespace goes when nothing in it is left."""
    from pyroute2 import netns

    if missing_ok and not path_of(name).exists():
        return
    try:
        netns.remove(name)
    except OSError as error:
        raise KernelError(f"delete network namespace {name}", error.errno or 0, "see `ip netns list`") from error
