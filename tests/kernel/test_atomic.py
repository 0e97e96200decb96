"""Stores and exchanges of words by their indexes."""

import numpy as np
import pytest

from hopline.kernel.atomic import exchange64_at, store32_at

WAY = np.dtype([("hash", "u8"), ("word", "u8")])


def test_words_are_stored_by_index():
    words = np.arange(10, dtype=np.uint32)
    store32_at(words, np.array([9, 0, 3]), np.array([1, 2, 3]))
    assert words.tolist() == [2, 1, 2, 3, 4, 5, 6, 7, 8, 1]


def test_words_far_apart_are_exchanged_where_they_are_as_expected():
    ways = np.zeros(5, WAY)
    ways["word"] = [1, 2, 3, 4, 5]
    done = exchange64_at(ways["word"], np.array([1, 2, 4]), np.array([2, 9, 5]))
    assert done.tolist() == [True, False, True]
    assert ways["word"].tolist() == [1, 0, 3, 4, 0]
    assert not ways["hash"].any()
    exchange64_at(ways["word"], np.array([0]), np.array([1]), np.array([1 << 63], np.uint64))
    assert int(ways["word"][0]) == 1 << 63


def test_nothing_is_nothing():
    words = np.zeros(3, np.uint32)
    store32_at(words, np.empty(0, int), np.empty(0, int))
    assert exchange64_at(np.zeros(0, np.uint64), np.empty(0, int), np.empty(0, int)).tolist() == []


@pytest.mark.parametrize(
    ("words", "indexes", "values", "error"),
    [
        (np.zeros(3, np.uint32), [3], [0], IndexError),
        (np.zeros(3, np.uint32), [-1], [0], IndexError),
        (np.zeros(3, np.uint32), [0, 1], [0], TypeError),
        (np.zeros(3, np.uint64), [0], [0], TypeError),
        (np.zeros((3, 3), np.uint32), [0], [0], TypeError),
        (np.zeros(3, np.uint32)[::-1], [0], [0], TypeError),
        (np.frombuffer(bytes(12), np.uint32), [0], [0], TypeError),
        (np.frombuffer(bytearray(13), np.uint32, 3, 1), [0], [0], ValueError),
    ],
)
def test_what_is_no_word_is_refused(words, indexes, values, error):
    with pytest.raises(error):
        store32_at(words, np.array(indexes), np.array(values))
