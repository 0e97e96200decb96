"""What programs, maps and links share: a file descriptor of their own, and errors that quote libbpf.

BatchError, a KernelError, adds `.done`: after how many elements a batch of map operations stopped.
"""

import errno
import os
from pathlib import Path
from typing import Self

from hopline.errors import KernelError
from hopline.kernel._libbpf import ffi, lib

# the kernel's own number for "this map type has no such operation" (include/linux/errno.h); libc has no text for it
ENOTSUPP = 524
# first of libbpf's own (enum libbpf_errno in libbpf_legacy.h)
LIBBPF_ERRNO = 4000

LACKS_RIGHT = "run as root or with the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"


class BatchError(KernelError):
    """A batch stopped early: the first `done` elements were handled, the others were not."""

    def __init__(self, asked: str, number: int, done: int, todo: str = "") -> None:
        self.done = done
        super().__init__(f"{asked}: stopped after {done} elements", portable(number), todo)


def last_message() -> str:
    """The last line libbpf printed in this thread since the last call, without its prefix; "" if none."""
    text = ffi.string(lib.hl_message()).decode(errors="replace")
    lib.hl_message_clear()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("libbpf: ") if lines else ""


def check(result: int, asked: str, todo: str = "") -> int:
    """Return a system call's result, or raise KernelError(asked) when it is a negative errno."""
    if result >= 0:
        lib.hl_message_clear()  # a warning about what worked must not explain a later failure
        return result
    said = last_message()
    number = portable(-result)
    if number in (errno.EPERM, errno.EACCES):
        todo = todo or LACKS_RIGHT
    raise KernelError(asked, number, todo or said)


def portable(number: int) -> int:
    """The errno libc has a text for: the kernel's ENOTSUPP, and libbpf's own numbers (4000 up: a damaged object)."""
    if number == ENOTSUPP:
        return errno.EOPNOTSUPP
    return errno.ENOEXEC if number >= LIBBPF_ERRNO else number


def kind_of(fd: int) -> str:
    """What a BPF file descriptor is: "prog", "map", "link", "btf", or "" for anything else."""
    target = os.readlink(f"/proc/self/fd/{fd}")
    for kind in ("prog", "map", "link", "btf"):
        if f"bpf-{kind}" in target or f"bpf_{kind}" in target or (kind == "btf" and target == "anon_inode:btf"):
            return kind
    return ""


def open_pin(path: str | Path, kind: str) -> int:
    """A file descriptor of the pinned program, map or link at `path`; KernelError if it is none or another kind."""
    fd = check(lib.bpf_obj_get(os.fsencode(path)), f"open pin {path}")
    found = kind_of(fd)
    if found != kind:
        os.close(fd)
        asked = f"open pin {path}: a {found or 'foreign file'}, not a {kind}"
        raise KernelError(asked, errno.EINVAL, "name another pin")
    return fd


check(lib.hl_start(), "start libbpf")


class Handle:
    """Owns one file descriptor: closed by close(), by leaving a `with`, or when the last reference goes."""

    fd: int = -1
    pinned: Path | None = None
    what: str = "object"

    def fileno(self) -> int:
        """The file descriptor; -1 after close()."""
        return self.fd

    def close(self) -> None:
        """Give the descriptor back. What is pinned or attached by a pinned link stays in the kernel."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def pin(self, path: str | Path) -> None:
        """Pin to `path` on a bpffs (see bpffs.instance_dir); KernelError EEXIST if something is there."""
        # bpffs answers EPERM to a name with a dot, which would read as a lack of rights
        if "." in Path(path).name:
            raise KernelError(f"pin {self.what} to {path}", errno.EINVAL, "choose a name without a dot")
        check(lib.bpf_obj_pin(self.fd, os.fsencode(path)), f"pin {self.what} to {path}")
        self.pinned = Path(path)

    def unpin(self) -> None:
        """Remove the pin made by pin() or opened by from_pin(); nothing happens if there is none any more."""
        if self.pinned is not None:
            self.pinned.unlink(missing_ok=True)
            self.pinned = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # at interpreter exit os may be gone already; the kernel closes the rest
        if self.fd >= 0 and os is not None:
            self.close()
