"""Execution: all steps or, undone, none, whichever of them fails and however far it came."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.tables import Model, consistent_tables
from hopline.config import Decap, Interface, Service
from hopline.daemon.execute import execute, revert
from hopline.daemon.plan import (
    AttachInterface,
    Bump,
    DetachInterface,
    DropDecaps,
    DropEntries,
    DropService,
    PutDecaps,
    PutEntries,
    PutService,
    RetireAdjacency,
    Run,
    Running,
    Tables,
    WriteAdjacency,
    plan,
)
from hopline.errors import KernelError, Refused, StepFailed
from hopline.features.forward import Adjacency

A, B, C = Adjacency("READY", 1), Adjacency("READY", 2), Adjacency("UNRESOLVED", 3)
ETH0, ETH1, ETH2 = Interface("eth0"), Interface("eth1"), Interface("eth2")
# every kind of step: a new adjacency, a changed one, entries new, moved and dropped, an adjacency without use, and
# interfaces new, changed and gone
WEB, MAIL, ASK = (
    Service(name, "10.9.0.1", port, "tcp") for name, port in (("web", "80"), ("mail", "25"), ("ask", "53"))
)
PAIRS = [Decap("10.9.0.2", source) for source in ("10.1.0.1", "10.1.0.2", "any")]
HAVE = Tables(
    {"10.0.0.1": 2, "10.0.0.2": 2, "10.0.0.3": 4, "fd00::1": 3},
    {2: A, 3: B, 4: C},
    {"eth0": ETH0, "eth1": ETH1},
    {"web": WEB, "mail": MAIL},
    {pair.key: pair for pair in PAIRS[:2]},
    Running(True, True, 256),
)
WANT = Tables(
    {"10.0.0.1": 5, "10.0.0.2": 2, "10.0.0.4": 5, "10.1.0.0/16": 2, "fd00::1": 3},
    {2: A, 3: C, 5: B},
    {"eth0": Interface("eth0", "native"), "eth2": ETH2},
    {"web": Service("web", "10.9.0.1", "81", "tcp"), "ask": ASK},
    {PAIRS[0].key: Decap("10.9.0.2", "10.1.0.1", gue_port=7000), PAIRS[2].key: PAIRS[2]},
    Running(True, True, 512),
)


class Failing:
    """Raises at one write, counted from 0, and lets all others through."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error, self.count = at, error, 0

    def __call__(self, what: str) -> None:
        self.count += 1
        if self.count - 1 == self.at:
            raise self.error


def writes(have: Tables, want: Tables) -> int:
    """How many single writes the whole plan takes that can be undone."""
    model = Model(have)
    execute(plan(have, want), model)
    return len(model.calls) - model.calls.count("detach_interface")


def test_the_case_has_every_kind_of_step():
    kinds = {type(step) for step in plan(HAVE, WANT)}
    entries = {WriteAdjacency, PutEntries, DropEntries, Bump, RetireAdjacency}
    balance = {Run, PutService, DropService, PutDecaps, DropDecaps}
    assert kinds == entries | balance | {AttachInterface, DetachInterface}


def test_all_steps_run_in_order():
    model = Model(HAVE)
    execute(plan(HAVE, WANT), model)
    assert model.tables() == WANT


@pytest.mark.parametrize("error", [KernelError("put", 28), KeyboardInterrupt(), ValueError("a fault")], ids=repr)
@pytest.mark.parametrize("at", range(writes(HAVE, WANT)))
def test_a_failure_at_any_write_leaves_things_as_they_were(at, error):
    model = Model(HAVE, Failing(at, error))
    store: list[str] = []
    with pytest.raises((type(error), StepFailed)) as raised:
        execute(plan(HAVE, WANT), model, lambda: store.append("durable"), lambda: store.append("retracted"))
    assert error in (raised.value, raised.value.__cause__)
    assert isinstance(raised.value, StepFailed) is isinstance(error, KernelError)
    assert store == ["durable", "retracted"]
    assert model.tables() == HAVE
    # what was read meanwhile may have been cached
    assert model.calls[-1] == "bump_generation"


@given(consistent_tables(), consistent_tables(), st.data())
def test_a_failure_at_any_write_of_any_plan_is_undone_and_no_entry_dangles_on_the_way_back(have, want, data):
    steps = plan(have, want)
    if not writes(have, want):
        return
    failing = Failing(data.draw(st.integers(0, writes(have, want) - 1)), KernelError("put", 28))
    model = Model(have)

    def before(what: str) -> None:
        assert model.dangling() == {}
        failing(what)

    model.before = before
    with pytest.raises((KernelError, StepFailed)):
        execute(steps, model)
    assert model.tables() == have


def test_the_message_says_which_step_of_how_many_failed_and_why():
    steps = plan(HAVE, WANT)
    failing = Failing(2, KernelError("update map forward_exact4", 7, "the map holds 4 entries at most"))
    with pytest.raises(StepFailed) as raised:
        execute(steps, Model(HAVE, failing))
    assert str(raised.value) == (
        f"step 3 of {len(steps)}, put 2 entries into forward_exact4: update map forward_exact4: argument list too long "
        "(errno 7): the map holds 4 entries at most: all of it was undone"
    )


def test_a_step_that_is_all_there_is_fails_in_its_own_words():
    error = Refused("attach xdp pipeline to eth2: another program (id 39) is attached")
    with pytest.raises(Refused) as raised:
        execute([AttachInterface(None, ETH2)], Model(Tables(), Failing(0, error)))
    assert raised.value is error


def test_what_cannot_be_made_durable_has_touched_no_packet():
    model = Model(HAVE)

    def full() -> None:
        raise Refused("write store: disk is full")

    with pytest.raises(Refused, match="disk is full"):
        execute(plan(HAVE, WANT), model, full, lambda: pytest.fail("there is nothing to take back"))
    assert model.tables() == HAVE
    assert model.calls == []


def test_where_the_store_cannot_take_it_back_either_the_rest_is_undone_and_it_is_said(caplog):
    def broken() -> None:
        raise Refused("write store: disk is full")

    model = Model(HAVE, Failing(writes(HAVE, WANT) - 1, KernelError("retire", 22)))
    with pytest.raises(StepFailed, match="retire adjacency"):
        execute(plan(HAVE, WANT), model, retract=broken)
    assert model.tables() == HAVE
    assert "disk is full: the next start carries it out" in caplog.text


def test_a_program_that_cannot_be_taken_off_is_left_to_the_repair_of_drift(caplog):
    model = Model(HAVE)

    def stuck(what: str) -> None:
        if what == "detach_interface":
            raise KernelError("detach xdp link id 4", 16)

    model.before = stuck
    made: list[str] = []
    execute(plan(HAVE, WANT), model, lambda: made.append("durable"))
    assert made == ["durable"]
    assert model.entries == WANT.entries
    assert "detach eth1: " in caplog.text


PUT = PutEntries("forward_exact4", {"10.0.0.1": 3, "10.0.0.3": 3, "10.0.0.2": 3}, {"10.0.0.1": 2, "10.0.0.2": 2})
DROP = DropEntries("forward_exact4", {"10.0.0.1": 2, "10.0.0.2": 2})


@pytest.mark.parametrize(("step", "done"), [(PUT, 1), (PUT, 2), (DROP, 1)])
def test_a_batch_that_was_half_put_or_half_dropped_is_put_back(step, done):
    have = Tables({"10.0.0.1": 2, "10.0.0.2": 2}, {2: A, 3: B})
    model = Model(have, Failing(done, KernelError("put", 28)))
    with pytest.raises(KernelError):
        execute([step], model)
    assert model.tables() == have


def test_revert_after_success_undoes_all():
    steps = plan(HAVE, WANT)
    model = Model(HAVE)
    execute(steps, model)
    revert(steps, model)
    assert model.tables() == HAVE
    assert model.calls[-1] == "bump_generation"


def test_what_cannot_be_undone_is_said_and_the_rest_is(caplog):
    steps = plan(HAVE, WANT)
    model = Model(HAVE)
    execute(steps, model)

    def stuck(what: str) -> None:
        if what == "drop_entries":
            raise KernelError("delete", 5)

    model.before = stuck
    with caplog.at_level(logging.ERROR, "hopline"):
        revert(steps, model)
    assert "undo: put " in caplog.text
    assert model.adjacencies.items() >= {2: A, 3: B, 4: C}.items()
    assert model.entries["10.0.0.3"] == 4


def test_nothing_to_do_writes_nothing():
    model = Model(HAVE)
    execute([], model)
    assert model.calls == []
