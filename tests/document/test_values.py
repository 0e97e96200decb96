"""From parsed values to what is wanted."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopline.config import Forward, Interface, NextHop
from hopline.document.values import entering, entry_of, place_of, wanted_from
from hopline.errors import InvalidInput
from hopline.intent import NOUNS

INTERFACE, FORWARD, *_ = NOUNS


def test_an_entry_becomes_its_type_or_says_what_is_wrong_with_it():
    assert entry_of(FORWARD, {"to": "10.0.0.5", "via": "10.0.0.1"}) == Forward("10.0.0.5", via="10.0.0.1")
    assert entry_of(FORWARD, Forward("x")) == Forward("x")
    with pytest.raises(InvalidInput) as caught:
        entry_of(INTERFACE, {"name": 5, "mode": "fast", "bypass_policy": 1, "x": None})
    assert [str(problem) for problem in caught.value.problems] == [
        "name: 5 is a number: write text in quotes",
        "mode: fast is not a mode: use one of auto, native, generic",
        "bypass_policy: 1 is a number: write true or false",
        "x: no such field: the fields are name, mode and bypass_policy",
    ]


def test_entries_are_entered_under_their_key():
    assert entering(INTERFACE)(Interface("a", "native")) == ("a", Interface("a", "native"))
    assert entering(FORWARD)(Forward("10.0.0.5/32", via="10.0.0.1")) == ("10.0.0.5", NextHop(via="10.0.0.1"))


@given(st.lists(st.booleans(), min_size=1))
def test_the_place_of_a_key_is_found_again(entered):
    places = {str(place): place for place, one in enumerate(entered) if one}
    skipped = [place for place, one in enumerate(entered) if not one]
    assert [place_of(key, places, skipped) for key in places] == list(places.values())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["10.0.0.5", "eth0", "auto", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["to", "dev", "via", "name", "mode", "forward", "interface", "é\n"]), inner)
    ),
)


@given(json_values)
def test_no_value_makes_it_fall_over(value):
    for raw in (value, {"forward": value}, {"interface": [value], "forward": [value, value]}):
        with contextlib.suppress(InvalidInput):
            wanted_from(raw, lambda path: None)
