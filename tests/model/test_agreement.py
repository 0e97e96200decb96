"""The model, the shipped program and the kernel alone say the same of every frame: verdict and octets.

`HOPLINE_SEED=N make test-slow` draws again what a run with that seed drew; `model/agree.py` runs by itself too.
"""

import dataclasses
import os
import random

import pytest

import model.agree
from bpf.frames import ip4
from model.agree import Disagreement, explore
from model.model import answer
from model.table import Hop, Route, Table, address, mac, prefix

FEW, MANY = 50_000, 1_000_000
HOP = Hop(mac("02:00:00:00:0e:01"), mac("02:00:00:00:02:01"))


@pytest.mark.timeout(600)
def test_they_agree(three):
    explore(three, FEW)
    print(three.tally)
    seen = three.tally.verdicts
    assert seen.total() >= FEW
    # each way out of forward was taken, and the kernel was asked about most of what leaves
    names = [verdict.name for verdict in three.shipped.datapath.verdicts]
    assert set(seen) == {name for name in names if name.startswith(("PASS", "FORWARDED"))}
    assert three.tally.by_kernel > 0.8 * seen["FORWARDED"] > 0.1 * FEW


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_they_agree_on_a_million(three):
    first = int(os.environ.get("HOPLINE_SEED") or random.randrange(1 << 32))
    before = three.tally.verdicts.total()
    for seed in range(first, first + MANY // FEW):
        print(f"HOPLINE_SEED={seed}", flush=True)
        explore(three, FEW, seed)
    print(three.tally)
    assert three.tally.verdicts.total() - before >= MANY


TABLE = Table(
    exact={address("198.51.100.7"): HOP},
    prefixes={prefix("198.51.0.0/16"): dataclasses.replace(HOP, mac=mac("02:00:00:00:0e:03"))},
    routes={prefix("203.0.113.0/24"): Route(via=address("10.0.2.2"))},
    leased=False,
)
SENT = [ip4("198.51.100.8"), ip4("198.51.100.7", ttl=2), ip4("198.51.100.9")]


def test_a_program_that_says_otherwise_is_found_with_the_least_table_that_shows_it(three, monkeypatch):
    def wrong(table, frame):
        right = answer(table, frame)
        return dataclasses.replace(right, verdict="PASS_TTL", frame=frame, hop=None) if frame == SENT[1] else right

    three.agree(TABLE, SENT)
    monkeypatch.setattr(model.agree, "answer", wrong)
    with pytest.raises(Disagreement) as raised:
        three.agree(TABLE, SENT)
    said = str(raised.value)
    assert said.startswith("the program, with a cold cache: ")
    assert f"the model: PASS_TTL, {SENT[1].hex()}" in said
    assert f"frame: {SENT[1].hex()}\ntable:\n" in said
    # whatever the table, the program does not say PASS_TTL: nothing of it is left
    assert said.endswith("table:\n")


def test_a_kernel_that_says_otherwise_is_found(three, monkeypatch):
    write = three.alone.write
    monkeypatch.setattr(three.alone, "write", lambda table: write(dataclasses.replace(table, exact={})))
    with pytest.raises(Disagreement) as raised:
        three.agree(TABLE, SENT)
    said = str(raised.value)
    assert said.startswith("the kernel alone: 1 frames did not come out")
    assert f"frame: {SENT[1].hex()}\ntable:\n198.51.100.7 -> " in said
    assert "203.0.113.0" not in said
