"""Values of one build as another has them: by the names of fields, and nothing is lost without a word."""

import numpy as np
import pytest

from hopline.errors import Refused
from hopline.host.migrate import carried

NUMBER = np.dtype("u4")
ADDRESS = np.dtype("V16")
ROW = np.dtype([("mac", "u8"), ("ifindex", "u4"), ("state", "u4"), ("next_hop", "V16"), ("spare", "u8", 2)])
LATER = np.dtype([("next_hop", "V16"), ("colour", "u8"), ("state", "u4"), ("ifindex", "u8"), ("mac", "u8")])
HOP = bytes(range(16))


def row(dtype, **values):
    made = np.zeros(1, dtype)
    for name, value in values.items():
        made[name] = value
    return made


def test_fields_are_carried_by_name_wherever_they_lie():
    old = row(ROW, mac=1 << 60, ifindex=7, state=2, next_hop=np.void(HOP), spare=(5, 6))
    new = carried(old, LATER, "adjacencies")
    assert new.dtype == LATER
    assert (int(new["mac"][0]), int(new["ifindex"][0]), int(new["state"][0])) == (1 << 60, 7, 2)
    assert (new["next_hop"].tobytes(), int(new["colour"][0])) == (HOP, 0)
    back = carried(new, ROW, "adjacencies")
    assert back["mac"] == old["mac"]
    assert back["spare"].tolist() == [[0, 0]]  # nobody's: what lay there means nothing to another build


def test_a_field_that_has_no_place_is_refused_where_it_holds_anything():
    assert len(carried(row(LATER, ifindex=7), ROW, "adjacencies")) == 1
    rows = np.concatenate([row(LATER), row(LATER, colour=1)])
    with pytest.raises(Refused, match=r"adjacencies\.colour: this build has no place for it, and 1 of 2 elements"):
        carried(rows, ROW, "adjacencies")


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (np.array([7], "u4"), np.dtype("u8"), 7),
        (np.array([7], "u8"), np.dtype("u1"), 7),
        (np.array([0x01020304], ">u4"), np.dtype("u4"), 0x01020304),  # the number stays, its octets are turned round
        (np.array([7], "u4"), np.dtype([("id", "u4"), ("note", "u4")]), (7, 0)),
        (np.array([(7, 0)], [("id", "u4"), ("note", "u4")]), np.dtype("u4"), 7),
        (np.array([b"0.1.0"], "S8"), np.dtype("S32"), b"0.1.0"),
    ],
)
def test_numbers_and_texts_grow_and_shrink_as_far_as_they_fit(value, dtype, expected):
    assert carried(value, dtype, "x")[0].item() == expected


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (np.array([300], "u4"), np.dtype("u1"), "x: a value there is too large for this build"),
        (np.array([(7, 9)], [("id", "u4"), ("note", "u4")]), NUMBER, r"x\.note: this build has no place"),
        (np.zeros(1, ADDRESS), np.dtype("V6"), r"x: \|V16 there and \|V6 here"),
        (np.zeros(1, ADDRESS), NUMBER, r"x: \|V16 there and uint32 here"),
        (np.array([b"long"], "S4"), np.dtype("S2"), "there and"),
        (np.ones((1, 4), "u4"), np.dtype(("u4", (3,))), "x: this build has no place"),
        (np.zeros(1, [("words", "u4", 4)]), np.dtype([("words", "u4")]), r"x\.words: uint32 there and uint32 here"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(value, dtype, said):
    with pytest.raises(Refused, match=said):
        carried(value, dtype, "x")


def test_arrays_and_cpus_keep_their_places():
    words = np.arange(8, dtype="u8").reshape(2, 4)
    assert carried(words, np.dtype(("u8", (6,))), "bloom").tolist() == [[0, 1, 2, 3, 0, 0], [4, 5, 6, 7, 0, 0]]
    short = np.array([[1, 2, 0], [3, 4, 0]], "u8")
    assert carried(short, np.dtype(("u8", (2,))), "bloom").tolist() == [[1, 2], [3, 4]]
    counter, wide = np.dtype([("packets", "u8"), ("bytes", "u8")]), np.dtype([("bytes", "u8"), ("packets", "u8")])
    a_cpu_each = np.array([[(1, 2), (3, 4)]], counter)
    assert carried(a_cpu_each, wide, "count").tolist() == [[(2, 1), (4, 3)]]
