"""What programs print with bpf_printk, read from a trace buffer of our own: other readers of trace_pipe lose nothing.

The kernel copies each text to every instance under tracefs that has its event on (Documentation/trace/ftrace.rst).
"""

import errno
import os
import select
import tempfile
import time
from pathlib import Path
from typing import Self

from hopline.errors import KernelError
from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.handle import check

TRACEFS_MAGIC = 0x74726163  # include/uapi/linux/magic.h
USUAL = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
EVENT = "events/bpf_trace/bpf_trace_printk/enable"
CLOCK = "mono"
PREFIX = "hopline-"
CHUNK = 1 << 16  # the kernel hands out a page at most, and whole events


class TracePipe:
    """What programs print from now on, in a trace instance at `place` that ends with this object; `root` is tracefs.

    Its times are of CLOCK_MONOTONIC. tracefs is used where it is mounted, else mounted for this process alone.
    """

    def __init__(self) -> None:
        self._mount = -1
        self._fd = -1
        self.behind = False
        self.place: Path | None = None
        self.root = self._mounted()
        instances = self.root / "instances"
        try:
            _remove_leftovers(instances)
            self.place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=instances))
            self._set("trace_clock", CLOCK)
            # else a reader is woken only when the buffer is half full
            self._set("buffer_percent", "0")
            self._set(EVENT, "1")
            self._fd = os.open(self.place / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            todo = "run as root on Linux 5.9 or later" if error.errno in (errno.ENOENT, errno.EACCES) else ""
            raise KernelError("open a trace buffer for what programs print", error.errno or 0, todo) from error
        except BaseException:
            # a signal: __exit__ does not come
            self.close()
            raise

    def _mounted(self) -> Path:
        for place in USUAL:
            if lib.hl_filesystem(ffi.new("char[]", os.fsencode(place))) == TRACEFS_MAGIC:
                return place
        todo = "run as root, on a kernel with CONFIG_FTRACE and CONFIG_BPF_EVENTS"
        self._mount = check(lib.hl_tracefs(), "mount tracefs for this process", todo)
        return Path(f"/proc/self/fd/{self._mount}")

    def _set(self, name: str, value: str) -> None:
        assert self.place is not None
        (self.place / name).write_text(value, encoding="ascii")

    def read(self, timeout: float) -> str:
        """Whole events, as the kernel writes them, as soon as there are any; "" when `timeout`, in seconds, is over.

        Afterwards `behind` says whether there were some already, so that these may be older.
        """
        deadline = time.monotonic() + timeout
        self.behind = True
        while True:
            try:
                return os.read(self._fd, CHUNK).decode(errors="backslashreplace")
            except BlockingIOError:
                self.behind = False
                left = deadline - time.monotonic()
            if left <= 0:
                return ""
            select.select([self._fd], [], [], left)

    def close(self) -> None:
        """Remove the instance, and the mount with the last who uses it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        place, self.place = self.place, None
        if place is not None:
            place.rmdir()
        mount, self._mount = self._mount, -1
        if mount >= 0:
            os.close(mount)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _remove_leftovers(instances: Path) -> None:
    """Remove the instances of processes that were killed."""
    for place in instances.glob(f"{PREFIX}*"):
        number = place.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdigit() and not Path("/proc", number).exists():
            try:
                place.rmdir()
            except OSError:
                continue  # in use after all, or another removes it
