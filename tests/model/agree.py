"""Whether the model, the shipped program and the kernel alone agree; `python -m model.agree` with tests/ on the path.

    --seed N      another draw than that of `make test`
    --packets N   how many frames, 5,000 unless told

HOPLINE_TEST_OBJECT=… names another object file than the shipped one.
The exit status is 1 where they do not agree; what is printed then is the frame, the smallest table, and both answers.
"""

import argparse
import contextlib
import dataclasses
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from bpf.pipeline import XDP_PASS, XDP_REDIRECT
from model.draw import SEEDS, frames, tables
from model.model import Answer, answer
from model.routers import Alone, Shipped, is_expressible, open_alone, open_shipped
from model.table import Table, simpler

FRAMES = 250  # for each table
ROUND = 10  # tables; of more, Hypothesis would draw few anew, and mostly change a little of those it has drawn


class Disagreement(AssertionError):
    """Two of the three say different things of one frame."""


@dataclass
class Tally:
    """What was compared: frames by the model's verdict, and those that the kernel alone was asked about."""

    verdicts: Counter[str] = field(default_factory=Counter)
    by_kernel: int = 0
    tables: int = 0

    def __str__(self) -> str:
        each = ", ".join(f"{name} {count}" for name, count in self.verdicts.most_common())
        return f"{self.verdicts.total()} frames in {self.tables} tables, {self.by_kernel} by the kernel alone: {each}"


@dataclass
class Three:
    """The model, and the two routers."""

    shipped: Shipped
    alone: Alone
    tally: Tally = field(default_factory=Tally)

    def compare(self, table: Table, sent: Sequence[bytes], answers: Sequence[Answer]) -> tuple[int, str] | None:
        """Say the first frame that they do not agree on, by its number, and how; `answers` are the model's."""
        self.shipped.write(table)
        for state, cold in (("with a cold cache", True), ("as the cache fills", False), ("out of the cache", False)):
            found = self._run(sent, answers, state, cold)
            if found is not None:
                return found
        # what was learned is in the cache, but not used where that is forbidden, nor while nobody vouches for it
        forbidden = {"learn": frozenset(), "bypass": False}
        for change in (forbidden, {"bypass": not table.bypass}, {"leased": not table.leased}):
            changed = dataclasses.replace(table, **change)
            self.shipped.permit(changed)
            found = self._run(sent, [answer(changed, frame) for frame in sent], f"after a change to {change}", False)
            if found is not None:
                return found
        return self._ask_kernel(table, sent, answers)

    def _run(self, sent: Sequence[bytes], answers: Sequence[Answer], state: str, cold: bool) -> tuple[int, str] | None:
        outcomes = self.shipped.run(sent, answers, cold)
        for number, (wanted, found) in enumerate(zip(answers, outcomes, strict=True)):
            action = XDP_REDIRECT if wanted.verdict == "FORWARDED" else XDP_PASS
            if (found.verdict, found.action, found.data) != (wanted.verdict, action, wanted.frame):
                said = f"{found.verdict}, action {found.action}, {found.data.hex()}"
                return number, f"the program, {state}: {said}\nthe model: {wanted.verdict}, {wanted.frame.hex()}"
        return None

    def _ask_kernel(self, table: Table, sent: Sequence[bytes], answers: Sequence[Answer]) -> tuple[int, str] | None:
        leaving = [number for number, each in enumerate(answers) if the_kernel_can_say_so(table, each)]
        expected = Counter((answers[number].hop.device, answers[number].frame) for number in leaving)
        self.alone.write(table)
        arrived = self.alone.forward([sent[number] for number in leaving], len(leaving))
        self.tally.by_kernel += len(leaving)
        if arrived == expected:
            return None
        missing, more = expected - arrived, arrived - expected
        others = "; ".join(f"{device} {frame.hex()}" for device, frame in list(more)[:3])
        said = f"the kernel alone: {missing.total()} frames did not come out, others did: {others}"
        for number in leaving:
            device, frame = answers[number].hop.device, answers[number].frame
            if (device, frame) in missing:
                return number, f"{said}\nthe model and the program: {device} {frame.hex()}"
        return 0, said

    def agree(self, table: Table, sent: Sequence[bytes]) -> None:
        """Raise Disagreement, with as little of the table as it takes, where they do not agree."""
        answers = [answer(table, frame) for frame in sent]
        found = self.compare(table, sent, answers)
        if found is None:
            self.tally.tables += 1
            self.tally.verdicts.update(each.verdict for each in answers)
            return
        number, said = found
        frame = sent[number]
        lone = self.compare(table, [frame], [answers[number]])
        if lone is None:
            before = " ".join(each.hex() for each in sent[:number])
            raise Disagreement(f"{report(table, frame, said)}\nonly behind the frames before it: {before}")
        raise Disagreement(report(*self._reduced(table, frame, lone[1])))

    def _reduced(self, table: Table, frame: bytes, said: str) -> tuple[Table, bytes, str]:
        tried = list(simpler(table))
        while tried:
            each = tried.pop()
            still = self.compare(each, [frame], [answer(each, frame)])
            if still is not None:
                table, said = each, still[1]
                tried = list(simpler(table))
        return table, frame, said


def the_kernel_can_say_so(table: Table, each: Answer) -> bool:
    """Whether a frame leaves, by a hop that a route can say, and fits its device."""
    if each.hop is None or not is_expressible(table, each.hop):
        return False
    return len(each.frame) - 14 <= table.devices[each.hop.device].mtu


def report(table: Table, frame: bytes, said: str) -> str:
    return f"{said}\nframe: {frame.hex()}\ntable:\n{table}"


@contextlib.contextmanager
def open_three() -> Iterator[Three]:
    with open_shipped() as shipped, open_alone() as alone:
        yield Three(shipped, alone)


def explore(three: Three, packets: int, seed: int = 0) -> None:
    """Draw tables and frames until so many were compared, always the same for the same seed."""
    enough = three.tally.verdicts.total() + packets
    for number in itertools.count():

        @hypothesis.seed(f"{seed} {number}")
        @settings(
            max_examples=ROUND,
            database=None,
            deadline=None,
            # _reduced makes the table small; a frame is read as it is
            phases=[Phase.generate],
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(tables(), SEEDS)
        def draw(table: Table, seed: int) -> None:
            # each round begins with what is simplest, which is the same in all
            if seed and three.tally.verdicts.total() < enough:
                three.agree(table, frames(table, seed, FRAMES))

        draw()
        if three.tally.verdicts.total() >= enough:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--packets", type=int, default=5000)
    asked = parser.parse_args()
    with open_three() as three:
        try:
            explore(three, asked.packets, asked.seed)
        except Disagreement as error:
            print(error)
            return 1
        print(three.tally)
    return 0


if __name__ == "__main__":
    sys.exit(main())
