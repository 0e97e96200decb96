"""Intents as values: what differs, how differences are taken back, and how they compose."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hopline.config import Forward, Intent, Interface, NextHop
from hopline.intent import NOUNS, Change, Delta, Wanted, difference, document_of, wanted_of

A, B = NextHop(dev="eth0", dst_mac="02:00:00:00:00:01"), NextHop(via="10.0.0.1")

keys = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.1.0.0/16", "fd00::1"])
names = st.sampled_from(["eth0", "eth1"])
modes = st.sampled_from(["auto", "native", "generic"])


@st.composite
def intents(draw) -> Wanted:
    interfaces = {name: Interface(name, draw(modes)) for name in draw(st.sets(names))}
    return Wanted({"interface": interfaces, "forward": draw(st.dictionaries(keys, st.sampled_from([A, B])))})


def after(wanted: Wanted, change: Change) -> Wanted:
    """The intent that a change makes of another; it must be one of that intent."""
    made = {}
    for noun in NOUNS:
        delta, entries = change.of(noun.name), dict(wanted.of(noun.name))
        assert delta.before.items() <= entries.items()
        assert all(key not in entries for key in delta.added)
        made[noun.name] = {key: value for key, value in entries.items() if key not in delta.before} | dict(delta.after)
    return Wanted(made)


def test_what_is_added_changed_and_removed_by_noun():
    have = Wanted({"interface": {"eth0": Interface("eth0")}, "forward": {"10.0.0.1": A, "10.0.0.2": A}})
    want = Wanted({"forward": {"10.0.0.2": B, "10.0.0.3": A}})
    change = difference(have, want)
    assert change.of("interface") == Delta(before={"eth0": Interface("eth0")})
    delta = change.of("forward")
    assert (delta.added, delta.changed, delta.removed) == (["10.0.0.3"], ["10.0.0.2"], ["10.0.0.1"])
    assert delta.before == {"10.0.0.2": A, "10.0.0.1": A}
    assert bool(change)


def test_with_merge_nothing_goes():
    have = Wanted({"interface": {"eth0": Interface("eth0")}, "forward": {"10.0.0.1": A}})
    change = difference(have, Wanted({"forward": {"10.0.0.1": B}}), merge=True)
    assert change == Change({"forward": Delta({"10.0.0.1": A}, {"10.0.0.1": B})})


@given(intents(), intents())
def test_a_difference_leads_from_one_to_the_other_and_its_inverse_back(have, want):
    change = difference(have, want)
    assert after(have, change) == want
    assert after(want, change.inverse()) == have
    assert bool(change) is (have != want)
    assert not difference(want, want)


@given(st.lists(intents(), min_size=2, max_size=5))
def test_changes_in_a_row_compose_into_one(states):
    whole = Change()
    for have, want in pairwise(states):
        whole = whole.then(difference(have, want))
    # and no entry that comes out as it was is part of it
    expected = difference(states[0], states[-1])
    assert {noun.name: whole.of(noun.name) for noun in NOUNS} == {n.name: expected.of(n.name) for n in NOUNS}


@given(intents())
def test_a_document_says_what_is_wanted_and_back(wanted):
    document = document_of(wanted)
    assert isinstance(document, Intent)
    assert wanted_of(document) == wanted
    assert all(isinstance(entry, Forward) for entry in document.forward)


def test_every_noun_is_a_table_of_the_document():
    assert tuple(noun.name for noun in NOUNS) == Intent.__struct_fields__
    for noun in NOUNS:
        assert noun.key in noun.kind.__struct_fields__
