"""What a packet costs on each way may not grow unseen: counted, not timed, so that a busy machine changes nothing."""

import warnings

import pytest

from bpf.cost_table import ACCEPT, COMPILED, better, compiler, figures_of, inline, read, worse, write
from bpf.paths import WAYS, Way, cost_of, obstacle
from bpf.pipeline import Pipeline


@pytest.fixture(scope="module", autouse=True)
def countable(_pipeline: Pipeline) -> None:
    """Skip where nothing can be counted, and say why."""
    if reason := obstacle(_pipeline.program):
        pytest.skip(reason)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_way_costs_no_more_than_the_table_says(request: pytest.FixtureRequest, pipeline: Pipeline, way: Way):
    table, made = read()
    here = compiler()
    ignored = set() if here == made["compiler"] else COMPILED
    found = figures_of(cost_of(request.getfixturevalue("balanced").pipeline if way.balancing else pipeline, way))
    advice = f"see `python bench/cost.py {way}`; `{ACCEPT}` accepts it (the table: {inline(made)})"
    grown = worse(table[way.name], found, ignored)
    assert not grown, f"{way} costs more: {'; '.join(grown)}: {advice}"
    shrunk = better(table[way.name], found, ignored)
    if shrunk:
        warnings.warn(f"{way} costs less: {'; '.join(shrunk)}: {advice}", stacklevel=1)
    if ignored:
        pytest.skip(f"instructions are counted of {made['compiler']}, here is {here}; the rest was compared")


def test_the_table_has_each_way_once():
    assert list(read()[0]) == [way.name for way in WAYS]


def test_the_same_way_costs_the_same_again(pipeline: Pipeline):
    by_name = {way.name: way for way in WAYS}
    way = by_name["IPv4 new, FIB"]
    first = figures_of(cost_of(pipeline, way))
    cost_of(pipeline, by_name["IPv6 cached, learned"])
    assert figures_of(cost_of(pipeline, way)) == first


def test_a_figure_that_goes_up_is_named_and_one_that_goes_down_is_too():
    was = {"instructions": 500, "look-ups in cache4": 1, "lines of stack": 4}
    now = {"instructions": 501, "look-ups in cache4": 2, "calls of bpf_fib_lookup": 1, "lines of stack": 3}
    assert worse(was, now) == [
        "instructions: 500, now 501",
        "look-ups in cache4: 1, now 2",
        "calls of bpf_fib_lookup: 0, now 1",
    ]
    assert worse(was, now, COMPILED) == ["look-ups in cache4: 1, now 2", "calls of bpf_fib_lookup: 0, now 1"]
    assert better(was, now) == ["lines of stack: 4, now 3"]
    assert better(was, {"instructions": 491, "lines of stack": 4}) == ["look-ups in cache4: 1, now 0"]
    assert better(was, {**was, "instructions": 489}) == ["instructions: 500, now 489"]


def test_what_is_written_into_the_table_is_read_from_it(tmp_path):
    table = {
        "a way, of two": {"instructions": 7, "look-ups in state": 1, "calls of f": 2, "lines of .rodata": 1},
        "another": {"instructions": 1},
    }
    write(table, tmp_path / "cost.toml")
    found, made = read(tmp_path / "cost.toml")
    assert found == table
    assert made["compiler"] == compiler()
