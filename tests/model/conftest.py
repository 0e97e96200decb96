"""The three that are compared, made once; where that cannot be, the reason is given."""

import pytest

from bpf.conftest import obstacle


@pytest.fixture(scope="module")
def three():
    """The model, the shipped program in one router, and the kernel alone in another."""
    if obstacle():
        pytest.skip(obstacle())
    from model.agree import open_three

    with open_three() as made:
        yield made


@pytest.fixture(scope="module")
def both():
    """The model of balance, and the shipped program with that step on."""
    if obstacle():
        pytest.skip(obstacle())
    from model.agree_balance import open_both

    with open_both() as made:
        yield made
