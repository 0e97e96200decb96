"""What a packet costs, counted: `.venv/bin/python bench/cost.py [WORDS] [--object OBJECT] [--listing] [--accept]`.

Without WORDS, a line for each way through the pipeline. With some, the ways that have them all in their names, line by
line of the source: instructions executed, and how many of them load from or store to the stack.
OBJECT is another build of xdp.bpf.o. `--listing` shows the instructions themselves, in the order of the program.
`--accept` writes what the ways cost now into tests/bpf/cost.toml, which tests/bpf/test_cost.py holds the program to.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from emulate import Cost, Line, Translated, translated  # noqa: E402
from emulate.text import text_of  # noqa: E402

from bpf import cost_table  # noqa: E402
from bpf.balanced import open_balanced  # noqa: E402
from bpf.paths import WAYS, Way, cost_of  # noqa: E402
from bpf.pipeline import Pipeline, open_pipeline  # noqa: E402
from hopline.daemon import datapath  # noqa: E402

LOAD, STORES, FRAME = 1, (2, 3), 10


def summary(way: Way, cost: Cost) -> str:
    return (
        f"{way.name:38} {cost.instructions:5} {cost.normal:5} {cost.lookups.total():5} {cost.calls.total():5}"
        f" {cost.map_lines:5} {cost.lines['packet']:5} {cost.lines.get('stack', 0):5}"
        f" {cost.loads.get('stack', 0):6}/{cost.stores.get('stack', 0):<4} {way.verdict}"
    )


HEADER = (
    f"{'':38} {'insn':>5} {'norm':>5} {'look':>5} {'calls':>5} {'lines':>5} {'pkt':>5} {'stack':>5} {'ld/st stack':>11}"
)


def of_stack(program: Translated, slot: int) -> bool:
    instruction = program.instructions[slot]
    assert instruction is not None
    kind = instruction.code & 7
    return (kind == LOAD and instruction.src == FRAME) or (kind in STORES and instruction.dst == FRAME)


def profile(program: Translated, cost: Cost) -> None:
    """Instructions by source line, in the order of files and lines, and the totals of files."""
    by_line: Counter[Line | None] = Counter()
    stack: Counter[Line | None] = Counter()
    for slot, times in cost.steps.items():
        by_line[program.lines[slot]] += times
        stack[program.lines[slot]] += times * of_stack(program, slot)
    files: dict[str, list[Line | None]] = {}
    for line in by_line:
        files.setdefault(line.file if line else "", []).append(line)
    for file, found in sorted(files.items(), key=lambda each: -sum(by_line[line] for line in each[1])):
        print(f"\n{sum(by_line[line] for line in found):5} {sum(stack[line] for line in found):5}  {file}")
        for line in sorted(found, key=lambda each: each.number if each else 0):
            number, text = (line.number, line.text) if line else (0, "")
            print(f"{by_line[line]:5} {stack[line] or '':>5}  {number:4}  {text}")


def listing(program: Translated, cost: Cost) -> None:
    """Each instruction that was executed, under its source line."""
    before = None
    for slot in sorted(cost.steps):
        line = program.lines[slot]
        if line != before and line:
            print(f"; {Path(line.file).name}:{line.number}  {line.text}")
        before, instruction = line, program.instructions[slot]
        assert instruction is not None
        print(f"{cost.steps[slot]:4} {slot:5}  {text_of(instruction)}")


def details(way: Way, cost: Cost, program: Translated, with_listing: bool) -> None:
    print(f"\n{HEADER}\n{summary(way, cost)}")
    for what, counted in (("look-ups", cost.lookups), ("calls", cost.calls), ("lines", cost.lines),
                          ("loads", cost.loads), ("stores", cost.stores)):  # fmt: skip
        print(f"  {what:9}", ", ".join(f"{name} {count}" for name, count in sorted(counted.items())))
    print("\n insn stack  line")
    (listing if with_listing else profile)(program, cost)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("words", nargs="*")
    arguments.add_argument("--object", type=Path)
    arguments.add_argument("--listing", action="store_true")
    arguments.add_argument("--accept", action="store_true")
    given = arguments.parse_args()
    if given.object:
        datapath.OBJECT = given.object
    if given.accept:
        accept()
        return
    chosen = [way for way in WAYS if all(word.lower() in way.name.lower() for word in given.words)]
    with open_pipeline() as pipeline, open_balanced() as balanced:
        show({False: pipeline, True: balanced.pipeline}, chosen, bool(given.words), given.listing)


def accept() -> None:
    """Make what the program costs now what it may cost."""
    before = cost_table.read()[0] if cost_table.TABLE.exists() else {}
    with open_pipeline() as pipeline, open_balanced() as balanced:
        by_step = {False: pipeline, True: balanced.pipeline}
        found = {way.name: cost_table.figures_of(cost_of(by_step[way.balancing], way)) for way in WAYS}
    cost_table.write(found)
    for name, figures in found.items():
        changes = [*cost_table.worse(before.get(name, {}), figures), *cost_table.better(before.get(name, {}), figures)]
        print(f"{name}: {'; '.join(changes) or 'as it was'}")


def show(pipelines: dict[bool, Pipeline], ways: list[Way], in_detail: bool, with_listing: bool) -> None:
    """Lines of ways; `pipelines` by whether balance is on."""
    if not in_detail:
        print(HEADER)
    for way in ways:
        pipeline = pipelines[way.balancing]
        cost = cost_of(pipeline, way)
        if in_detail:
            details(way, cost, translated(pipeline.program), with_listing)
        else:
            print(summary(way, cost), flush=True)


if __name__ == "__main__":
    main()
