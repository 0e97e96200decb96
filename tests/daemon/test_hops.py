"""Ids of next hops: shared by entries that say the same, and never another's before their grace period is over."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hopline.config import NextHop
from hopline.daemon.hops import Draft, Hops
from hopline.errors import Refused
from hopline.features.forward import Adjacency

FIRST, END = 2, 6
ONE, TWO, THREE, FOUR, FIVE = (NextHop(via=f"10.2.0.{i}") for i in range(1, 6))


def entered(hops: Hops, *wanted: NextHop) -> list[int]:
    draft = Draft(hops)
    ids = [draft.use(hop) for hop in wanted]
    draft.commit()
    return ids


def left(hops: Hops, *ids: int) -> list[int]:
    draft = Draft(hops)
    for id in ids:
        draft.leave(id)
    gone = draft.gone()
    draft.commit()
    return gone


def test_entries_whose_next_hop_reads_the_same_share_an_id():
    hops = Hops(FIRST, END)
    assert entered(hops, ONE, TWO, NextHop(via="10.2.0.1")) == [2, 3, 2]
    assert entered(hops, TWO) == [3]
    assert hops.entries == {2: 2, 3: 2}
    assert entered(hops, NextHop(dev="right", via="10.2.0.1")) == [4], "another device may be another neighbour"


def test_an_id_goes_with_its_last_entry_and_is_anothers_only_when_given_back():
    hops = Hops(FIRST, END)
    entered(hops, ONE, ONE, TWO)
    hops.contents = {2: Adjacency("READY"), 3: Adjacency("READY")}
    assert left(hops, 2) == []
    assert left(hops, 2) == [2]
    assert (hops.ids, hops.hops, hops.contents) == ({TWO: 3}, {3: TWO}, {3: Adjacency("READY")})
    assert entered(hops, THREE, ONE) == [4, 5], "the grace period is not over"
    hops.give_back([2])
    assert entered(hops, FOUR) == [2]


def test_an_entry_that_is_replaced_by_the_same_keeps_its_id():
    hops = Hops(FIRST, END)
    entered(hops, ONE)
    draft = Draft(hops)
    draft.leave(2)
    assert draft.use(ONE) == 2
    assert draft.gone() == []
    draft.commit()
    assert hops.entries == {2: 1}


def test_a_draft_that_is_abandoned_leaves_no_trace():
    hops = Hops(FIRST, END)
    entered(hops, ONE)
    draft = Draft(hops)
    draft.leave(2)
    assert [draft.use(TWO), draft.use(TWO), draft.use(THREE)] == [3, 3, 4]
    hops.give_back(draft.new.values())
    assert (hops.ids, hops.hops, hops.entries) == ({ONE: 2}, {2: ONE}, {2: 1})
    assert sorted(entered(hops, FOUR, FIVE, THREE)) == [3, 4, 5]


def test_when_all_are_in_use_one_clear_refusal_says_so():
    hops = Hops(FIRST, END)
    entered(hops, ONE, TWO, THREE)
    draft = Draft(hops)
    assert draft.use(FOUR) == 5
    with pytest.raises(Refused) as refused:
        draft.use(FIVE)
    assert "\n" not in str(refused.value)
    assert str(refused.value) == (
        f"enter next hop: all {END - FIRST} next hops are in use: share next hops among entries, or change in two "
        "halves: those that go are in use until others are"
    )
    hops.give_back(draft.new.values())
    assert entered(hops, ONE) == [2], "known next hops can still be had"
    assert entered(hops, FIVE) == [5]


def test_what_the_kernel_uses_is_adopted_and_its_gaps_are_free():
    hops = Hops(FIRST, 10)
    assert hops.adopt(ONE, 5)
    assert hops.adopt(ONE, 5), "said twice"
    assert not hops.adopt(ONE, 6), "it has one"
    assert not hops.adopt(TWO, 5), "it is taken"
    assert not hops.adopt(TWO, 1), "not an id of the operator's"
    assert not hops.adopt(TWO, 10)
    hops.settle({5, 7})
    assert sorted(entered(hops, TWO, THREE, FOUR, FIVE)) == [2, 3, 4, 6]
    assert entered(hops, NextHop(via="10.2.0.9")) == [8], "7 is retiring, perhaps"
    assert entered(hops, ONE) == [5]


def test_settled_without_anything_all_are_free():
    hops = Hops(FIRST, END)
    hops.settle([])
    assert sorted(entered(hops, ONE, TWO, THREE, FOUR)) == [2, 3, 4, 5]


class Life(RuleBasedStateMachine):
    """Entries come and go in drafts that are committed or not; ids go through retirement before they are reused."""

    def __init__(self) -> None:
        super().__init__()
        self.hops = Hops(FIRST, 8)
        self.entries: list[tuple[NextHop, int]] = []
        self.retired: list[int] = []

    @rule(
        add=st.lists(st.sampled_from([ONE, TWO, THREE, FOUR, FIVE]), max_size=4),
        drop=st.integers(0, 3),
        commit=st.booleans(),
    )
    def change(self, add, drop, commit):
        draft = Draft(self.hops)
        going, staying = self.entries[:drop], self.entries[drop:]
        try:
            for _, id in going:
                draft.leave(id)
            coming = [(hop, draft.use(hop)) for hop in add]
        except Refused:
            self.hops.give_back(draft.new.values())
            return
        if not commit:
            self.hops.give_back(draft.new.values())
            return
        gone = draft.gone()
        draft.commit()
        self.entries = staying + coming
        assert set(gone) == {id for _, id in going} - {id for _, id in self.entries}
        self.retired += gone

    @rule()
    def grace(self):
        self.hops.give_back(self.retired)
        self.retired = []

    @invariant()
    def ids_are_told_apart(self):
        used = {id for _, id in self.entries}
        assert used & set(self.retired) == set()
        assert self.hops.ids == dict(self.entries)
        assert self.hops.hops == {id: hop for hop, id in self.entries}
        assert +self.hops.entries == {id: [i for _, i in self.entries].count(id) for id in used}


TestLife = Life.TestCase
