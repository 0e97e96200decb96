"""Steps that a signal must not come between: it waits until they are done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# what a person or a service manager ends a command by
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What would end the process comes after the block. To threads other than the main one no signal comes anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    # a mask would not do: another thread takes the signal then, and Python interrupts this one
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])
