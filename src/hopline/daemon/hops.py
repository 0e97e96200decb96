"""Which adjacency id belongs to which next hop of the operator's, and how many entries use it."""

from collections import Counter
from collections.abc import Iterable

from hopline.config import NextHop
from hopline.errors import Refused
from hopline.features.forward import Adjacency


class Hops:
    """Ids from `first` to below `end`; an id is shared by all entries whose next hop reads the same."""

    def __init__(self, first: int, end: int) -> None:
        self.first = first
        self.end = end
        self.ids: dict[NextHop, int] = {}
        self.hops: dict[int, NextHop] = {}
        self.entries: Counter[int] = Counter()
        self.contents: dict[int, Adjacency] = {}
        self._free: list[int] = []
        self._next = first

    @property
    def most(self) -> int:
        """How many next hops there can be."""
        return self.end - self.first

    def adopt(self, hop: NextHop, id: int) -> bool:
        """Let `hop` have the id that the kernel's entries use for it; False where either is taken."""
        if hop in self.ids or id in self.hops or not self._next <= id < self.end:
            return self.ids.get(hop) == id
        self.ids[hop] = id
        self.hops[id] = hop
        return True

    def settle(self, kernel_uses: Iterable[int]) -> None:
        """After adoption: ids that neither the intent nor the kernel uses are free."""
        used = set(self.hops) | set(kernel_uses)
        top = max(used, default=self._next - 1) + 1
        self._free = [id for id in range(self._next, top) if id not in used]
        self._next = top

    def take(self) -> int:
        """Return an id that nothing uses."""
        if self._free:
            return self._free.pop()
        if self._next >= self.end:
            hint = "share next hops among entries, or change in two halves: those that go are in use until others are"
            raise Refused(f"enter next hop: all {self.most:,} next hops are in use: {hint}")
        self._next += 1
        return self._next - 1

    def give_back(self, ids: Iterable[int]) -> None:
        """Ids are free again: retired, and the grace period over."""
        self._free.extend(ids)


class Draft:
    """A change to Hops that takes effect on `commit`; without it the new ids are to be given back, and that is all."""

    def __init__(self, hops: Hops) -> None:
        self._hops = hops
        self.new: dict[NextHop, int] = {}
        self._change: Counter[int] = Counter()

    def use(self, hop: NextHop, entries: int = 1) -> int:
        """Return the id for so many more entries by `hop`."""
        id = self._hops.ids.get(hop)
        if id is None:
            id = self.new.get(hop)
        if id is None:
            id = self.new[hop] = self._hops.take()
        self._change[id] += entries
        return id

    def leave(self, id: int, entries: int = 1) -> None:
        """So many entries fewer use this id."""
        self._change[id] -= entries

    def gone(self) -> list[int]:
        """Return the ids that no entry uses any more."""
        return [id for id, change in self._change.items() if change < 0 and self._hops.entries[id] + change == 0]

    def commit(self) -> None:
        """Make it so."""
        for hop, id in self.new.items():
            self._hops.ids[hop] = id
            self._hops.hops[id] = hop
        gone = self.gone()
        self._hops.entries.update(self._change)
        for id in gone:
            hop = self._hops.hops.pop(id)
            del self._hops.ids[hop], self._hops.entries[id]
            self._hops.contents.pop(id, None)
