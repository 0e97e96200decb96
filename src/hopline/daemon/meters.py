"""What the daemon counts of its own work, for status and metrics. All numbers only grow."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

# the kinds of drift: told of from the start, so that the first repair is seen as one more
REPAIRED = ("adjacencies", "devices", "entries", "local addresses", "programs")


@dataclass
class Timer:
    """How often something was done, and how long it took in all, in seconds."""

    count: int = 0
    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what the block does, also when it fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.count += 1
            self.seconds += time.monotonic() - began


@dataclass
class Meters:
    """One daemon's."""

    plan: Timer = field(default_factory=Timer)
    execute: Timer = field(default_factory=Timer)  # steps in the kernel
    durable: Timer = field(default_factory=Timer)  # a change in the store
    changes: Counter[str] = field(default_factory=Counter)  # by outcome: done, refused
    comparisons: int = 0  # of the intent with the kernel
    repairs: Counter[str] = field(default_factory=Counter)  # of drift, by what had to be put right

    def copy(self) -> "Meters":
        """Return what was counted so far, which goes on counting here."""
        return Meters(
            replace(self.plan),
            replace(self.execute),
            replace(self.durable),
            self.changes.copy(),
            self.comparisons,
            self.repairs.copy(),
        )
