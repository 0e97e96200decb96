"""A target that needs the kernel is skipped, with the reason, where the tests of tests/bpf are."""

import pytest

from bpf.conftest import obstacle


@pytest.fixture(scope="session")
def needs_bpf():
    if obstacle():
        pytest.skip(obstacle())
