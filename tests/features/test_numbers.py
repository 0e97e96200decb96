"""Numbers of backends: given lowest first, and again only when nothing names them."""

import numpy as np
import pytest

from hopline.features.numbers import Numbers, NumbersError
from hopline.features.slots import NUMBERS

NONE = np.zeros(NUMBERS, np.bool_)


def named(*numbers):
    found = NONE.copy()
    found[list(numbers)] = True
    return found


def test_the_lowest_free_number_is_given_and_kept():
    numbers = Numbers()
    assert [numbers.take(name) for name in ("a", "b", "c", "b")] == [0, 1, 2, 1]
    assert numbers.leave("b") == 1
    assert numbers.take("d") == 3


def test_a_number_is_free_when_nothing_names_it():
    numbers = Numbers()
    numbers.take("a")
    numbers.leave("a")
    due = numbers.due()
    assert not numbers.settle(due, named(0), np.zeros(8, int))
    assert not numbers.settle(due, NONE, np.array([1]))
    assert numbers.settle(due, NONE, np.zeros(8, int)) == {0}
    assert numbers.take("b") == 0


def test_a_round_that_began_before_frees_nothing():
    numbers = Numbers()
    numbers.take("a")
    due = numbers.due()
    numbers.leave("a")
    assert not numbers.settle(due, NONE, np.zeros(1, int))
    assert numbers.settle(numbers.due(), NONE, np.zeros(1, int)) == {0}


def test_who_died_is_believed_when_its_flows_are_forgotten():
    numbers = Numbers()
    numbers.take("a")
    numbers.take("b")
    assert numbers.believed("a")
    assert numbers.die("a") == 0
    assert not numbers.believed("a")
    assert numbers.believed("b")
    numbers.settle(numbers.due(), NONE, np.array([3, 0]))
    assert not numbers.believed("a")
    # slots may name it: it is its own
    assert not numbers.settle(numbers.due(), named(0), np.array([0, 0]))
    assert numbers.believed("a")


def test_who_died_may_come_back_under_another_number_at_once():
    numbers = Numbers()
    numbers.take("a")
    numbers.die("a")
    numbers.leave("a")
    assert numbers.take("a") == 1
    assert numbers.believed("a")
    assert numbers.settle(numbers.due(), NONE, np.zeros(0, int)) == {0}


def test_all_numbers_in_use_are_refused_with_the_reason():
    numbers = Numbers(most=2)
    numbers.take("a")
    numbers.take("b")
    with pytest.raises(NumbersError, match=r"backend c: all 2 numbers of the service are in use$"):
        numbers.take("c")
    numbers.leave("b")
    with pytest.raises(NumbersError, match="in use, 1 of them until flows of removed backends end"):
        numbers.take("c")
