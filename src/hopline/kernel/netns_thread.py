"""A network namespace that has no name, and the thread that lives in it and ends it.

Making and entering one takes CAP_SYS_ADMIN; what the thread does there later, only the rights that it takes by itself.
When the process ends, however it does, nothing of the namespace is left.
"""

import ctypes
import errno
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from hopline.errors import HoplineError, KernelError
from hopline.kernel.netns import CLONE_NEWNET, CURRENT

P = ParamSpec("P")
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceThread:
    """Calls functions in a namespace of its own, one at a time. `fd` stands for the namespace."""

    def __init__(self, name: str) -> None:
        """KernelError where the namespace cannot be made. `name` is the thread's."""
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.fd = -1
        began: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, args=(began,), name=name, daemon=True)
        self._thread.start()
        if number := began.get():
            self._thread.join()
            raise KernelError("make a network namespace", number)

    def _live(self, began: "queue.SimpleQueue[int]") -> None:
        if _libc.unshare(CLONE_NEWNET):
            began.put(ctypes.get_errno() or errno.EPERM)
            return
        try:
            self.fd = os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            began.put(error.errno or errno.EIO)
            return
        began.put(0)
        while (call := self._calls.get()) is not None:
            call()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(*args, **kwargs)`, called there, or raise what it raised."""
        answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answer.put((function(*args, **kwargs), None))
            except BaseException as error:  # handed to the caller's thread
                answer.put((None, error))

        if self.fd < 0:
            raise HoplineError(f"{self._thread.name}: the namespace is gone")
        self._calls.put(run)
        result, error = answer.get()
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """End the thread; the namespace goes when no socket is left in it."""
        if self.fd < 0:
            return
        self._calls.put(None)
        self._thread.join()
        os.close(self.fd)
        self.fd = -1
