"""The model of balance and decap, and the shipped program, say the same of every frame, and remember the same flows.

`HOPLINE_SEED=N make test-slow` draws again what a run with that seed drew; `model/agree_balance.py` runs by itself too.
"""

import dataclasses
import os
import random

import pytest

import model.agree_balance
from model.agree import Disagreement
from model.agree_balance import explore
from model.balance import answer_balanced
from model.services import TCP, UDP, Backend, Service, Services, Slot, Vip
from model.table import Hop, Table, address, mac
from model.test_balance import FRAME

FEW, MANY = 30_000, 1_000_000
# what a packet of a service or a tunnel may come to
OURS = {"BALANCED", "DECAPSULATED", "ANSWERED_ECHO", "ANSWERED_ERROR"}
DROPS = {"DROP_NO_BACKEND", "DROP_FRAGMENT", "DROP_TOO_BIG", "DROP_NOT_ACCEPTED", "DROP_MALFORMED"}


@pytest.mark.timeout(600)
def test_they_agree(both):
    explore(both, FEW)
    print(both)
    seen = both.verdicts
    assert seen.total() >= FEW
    assert set(seen) >= OURS | DROPS
    assert {name for name in names_of(both) if not name.startswith(("PASS", "FORWARDED", "CONTINUE"))} <= OURS | DROPS
    assert seen["BALANCED"] > 0.2 * FEW
    assert both.remembered > 0.02 * FEW


def names_of(both):
    return [verdict.name for verdict in both.balancing.datapath.verdicts]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_they_agree_on_a_million(both):
    first = int(os.environ.get("HOPLINE_SEED") or random.randrange(1 << 32))
    before = both.verdicts.total()
    for seed in range(first, first + MANY // FEW + 1):
        print(f"HOPLINE_SEED={seed}", flush=True)
        explore(both, FEW, seed)
    print(both)
    assert both.verdicts.total() - before >= MANY


HOP = Hop(mac("02:00:00:00:0e:01"), mac("02:00:00:00:02:01"))
BACKENDS = tuple(Backend(address("192.0.2.10"), address(f"10.0.2.{n}"), HOP) for n in (11, 12))
OPEN = (Slot(1, 0, "OPEN"),)
WEB = Service(address("192.0.2.80"), frozenset({TCP}), 80, 80, BACKENDS, OPEN)
OTHER = Service(address("192.0.2.81"), frozenset({UDP}), 53, 53, BACKENDS, OPEN)
SERVICES = Services((WEB, OTHER), {WEB.vip: Vip(), OTHER.vip: Vip()})


def test_a_program_that_says_otherwise_is_found_with_the_least_that_shows_it(both, monkeypatch):
    def wrong(table, services, memory, frame):
        right = answer_balanced(table, services, memory, frame)
        return dataclasses.replace(right, verdict="DROP_NO_BACKEND", frame=frame) if frame == FRAME else right

    both.agree(Table(), SERVICES, [FRAME])
    monkeypatch.setattr(model.agree_balance, "answer_balanced", wrong)
    with pytest.raises(Disagreement) as raised:
        both.agree(Table(leased=False), SERVICES, [FRAME])
    said = str(raised.value)
    assert said.startswith("the program: BALANCED, action 4, ")
    assert f"the model: DROP_NO_BACKEND, {FRAME.hex()}\nframes: {FRAME.hex()}\n" in said
    assert "service 1: " in said
    assert "service 2: " not in said
    assert "leased" not in said


def test_a_program_that_remembers_otherwise_is_found(both, monkeypatch):
    def forgetful(table, services, memory, frame):
        return answer_balanced(table, services, {}, frame)

    monkeypatch.setattr(model.agree_balance, "answer_balanced", forgetful)
    with pytest.raises(Disagreement, match="the program remembers besides: Counter"):
        both.agree(Table(), SERVICES, [FRAME])
