"""What the tests of the cache under attack share: destinations that collide, builds to attack, who moves entries."""

import contextlib
import ipaddress
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpf.driver import Attack, Tally, attack, epoch_hop
from bpf.pipeline import Pipeline
from bpf.test_cache import one_bucket4, one_hash6
from faults import windows
from faults.builder import Change, build
from hopline.features.forward import table_of
from hopline.kernel import Program
from hopline.kernel.object import ObjectFile

SECONDS = 1.0
LEASE_EVERY_S = 0.2
# a program runs for microseconds, but a processor of a virtual machine may be taken away in the midst of it
REST_S = 0.05
CROWDED = 40  # destinations for a bucket's eight or five ways
POOL = 8  # ids for each, so that three or four generations of next hops are in force, and as many rest


def names(destinations: list[bytes], length: int | None = None) -> list[str]:
    """The destinations as the operator writes them, or the prefixes of this length that they are in."""
    if length is None:
        return [str(ipaddress.ip_address(packed)) for packed in destinations]
    return [str(ipaddress.ip_network((packed, length), strict=False)) for packed in destinations]


def enter(pipeline: Pipeline, destinations: list[bytes], ids: list[int]) -> None:
    """Point each destination at its id; the answers from before are stale when this returns."""
    to = names(destinations)
    pipeline.datapath.put_entries(table_of(to[0]), dict(zip(to, ids, strict=True)))
    pipeline.datapath.bump_generation()


def first_ids(pipeline: Pipeline, destinations: list[bytes], first: int = 0) -> list[int]:
    """Give each destination an adjacency of its own, in epoch 0."""
    first = first or int(pipeline.datapath.ids.ADJACENCY_ID_FIRST)
    ids = [pipeline.adjacency(epoch_hop(number, 0), first + number) for number in range(len(destinations))]
    enter(pipeline, destinations, ids)
    return ids


@contextlib.contextmanager
def attacked(pipeline: Pipeline, destinations: list[bytes], window: Change | None = None, **more) -> Iterator[Attack]:
    """Packets to all destinations on two processors until the block ends; none of them went wrong."""
    with attack(pipeline, destinations, **more) as made, built_with(pipeline, window) as program:
        made.use(program)
        with made.under_way():
            yield made
        judge(made.tally())
    pipeline.recount()


@contextlib.contextmanager
def built_with(pipeline: Pipeline, window: Change | None) -> Iterator[Program]:
    """The program with a window widened, over the same maps; as it is shipped where none is."""
    with contextlib.ExitStack() as stack:
        if window is not None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hl-window-")))
            shipped = pipeline.datapath.file
            pipeline.datapath.file = ObjectFile(build(directory, [window]))
            stack.callback(setattr, pipeline.datapath, "file", shipped)
            stack.callback(pipeline.datapath.file.close)
        yield stack.enter_context(pipeline.load(generic=False))


def judge(tally: Tally) -> None:
    assert tally.wrong == 0, f"{tally.wrong} of {tally.forwarded + tally.wrong}: {tally.sample}"
    assert tally.forwarded > 2_000, tally


def for_a_while(pipeline: Pipeline, change: Callable[[], object], seconds: float = SECONDS) -> int:
    """Make changes one after another, the lease extended by the way; how many there were."""
    began, extended, changes = time.monotonic(), 0.0, 0
    while (now := time.monotonic()) - began < seconds:
        if now - extended > LEASE_EVERY_S:
            pipeline.datapath.extend_lease()
            extended = now
        change()
        changes += 1
    return changes


SHIPPED = pytest.param(None, id="as shipped")


def widened(*names: str, slow: bool = True) -> list:
    """A build for each of these windows."""
    marks = [pytest.mark.slow] if slow else []
    return [pytest.param(getattr(windows, name), id=f"widened {name.lower()}", marks=marks) for name in names]


def one_bucket(pipeline: Pipeline, family: int) -> list[bytes]:
    return (one_bucket4(pipeline) if family == 4 else one_hash6(pipeline, 32))[:CROWDED]


class Movers:
    """Moves all destinations to new next hops, by ids of a small pool: an id is used again soon after it was free.

    What was left stays in force for a while, as where other entries go there too, so that an answer that should be
    stale leads somewhere; then it retires, rests, and is free.
    """

    def __init__(self, pipeline: Pipeline, destinations: list[bytes], attack: Attack, first: int = 0) -> None:
        self.pipeline, self.destinations, self.attack = pipeline, destinations, attack
        count, first = len(destinations), first or int(pipeline.datapath.ids.ADJACENCY_ID_FIRST)
        self.ids = list(range(first, first + count))
        self.free = deque(range(first + count, first + POOL * count))
        self.left: deque[tuple[float, list[int]]] = deque()
        self.resting: deque[tuple[float, list[int]]] = deque()
        self.epoch = 0

    def take_back(self) -> None:
        """Retire what was left long enough ago, free what has rested long enough."""
        now, datapath = time.monotonic(), self.pipeline.datapath
        while self.resting and now - self.resting[0][0] > REST_S:
            ids = self.resting.popleft()[1]
            datapath.free_adjacencies(ids)
            self.free.extendleft(reversed(ids))  # the ones that were freed last are taken first
        while self.left and now - self.left[0][0] > REST_S:
            ids = self.left.popleft()[1]
            for id in ids:
                datapath.retire_adjacency(id)
            self.resting.append((now, ids))

    def move(self) -> None:
        """As the plan has it: adjacencies, then entries, then a bump."""
        self.take_back()
        if len(self.free) < len(self.destinations):
            time.sleep(0.001)
            return
        epoch, fresh = self.epoch + 1, [self.free.popleft() for _ in self.destinations]
        for number, id in enumerate(fresh):
            self.pipeline.adjacency(epoch_hop(number, epoch), id)
            self.attack.begin(number, epoch)
        enter(self.pipeline, self.destinations, fresh)
        for number in range(len(self.destinations)):
            self.attack.settle(number, epoch)
        self.left.append((time.monotonic(), self.ids))
        self.ids, self.epoch = fresh, epoch
