"""Runs of consecutive places in an array that is shared: given out, taken back, and free again after a while. Pure."""

from collections.abc import Iterable


class Blocks:
    """Places from `first` to below `end`; who gives a run back says until when, by some clock, it must rest."""

    def __init__(self, first: int, end: int) -> None:
        self.first = first
        self.end = end
        self._free: list[tuple[int, int]] = [(first, end - first)] if end > first else []  # (start, size), by start
        self._resting: list[tuple[float, int, int]] = []  # (until, start, size)

    def claim(self, taken: Iterable[tuple[int, int]]) -> None:
        """Take out runs (start, size) that are in use already; they do not overlap."""
        free: list[tuple[int, int]] = []
        place = self.first
        for start, size in sorted(taken):
            if start > place:
                free.append((place, start - place))
            place = start + size
        if self.end > place:
            free.append((place, self.end - place))
        self._free = free

    def take(self, size: int) -> int | None:
        """Return the start of a run that nobody has, None where there is none as long as that."""
        for i, (start, room) in enumerate(self._free):
            if room >= size:
                if room == size:
                    del self._free[i]
                else:
                    self._free[i] = (start + size, room - size)
                return start
        return None

    def give_back(self, start: int, size: int, until: float) -> None:
        """Let a run go; it is somebody else's once `free_rested` is called at `until` or later."""
        if size:
            self._resting.append((until, start, size))

    def free_rested(self, now: float) -> list[tuple[int, int]]:
        """Make runs free whose rest is over; return them."""
        rested = [(start, size) for until, start, size in self._resting if until <= now]
        if rested:
            self._resting = [each for each in self._resting if each[0] > now]
            self._free = _merged([*self._free, *rested])
        return rested

    def grow(self, end: int) -> None:
        """There are more places from now on."""
        if end > self.end:
            self._free = _merged([*self._free, (self.end, end - self.end)])
            self.end = end

    def lacking(self, sizes: Iterable[int]) -> int:
        """Return how many places there would have to be behind `end` for runs of these sizes."""
        free = [size for _, size in self._free]
        tail = next((size for start, size in self._free if start + size == self.end), 0)
        if tail:
            free.pop()
        beyond = 0
        for size in sizes:
            for i, room in enumerate(free):
                if room >= size:
                    free[i] -= size
                    break
            else:
                beyond += size
        return max(0, beyond - tail)

    @property
    def free(self) -> int:
        """How many places could be given out now."""
        return sum(size for _, size in self._free)


def _merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, size in sorted(runs):
        if merged and merged[-1][0] + merged[-1][1] == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + size)
        else:
            merged.append((start, size))
    return merged
