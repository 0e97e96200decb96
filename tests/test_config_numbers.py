"""Ports, statuses and the sizes of rings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopline.config.numbers import (
    RING_LEAST,
    RING_MOST,
    canonical_ports,
    canonical_statuses,
    is_prime,
    nearest_primes,
    port_range,
    ring_size,
    status_ranges,
)
from hopline.errors import InvalidInput

PORT_HINT = "give a port from 1 to 65535, a range such as 80-81, or any"


@pytest.mark.parametrize(
    ("given_", "spelled", "ports"),
    [
        (80, "80", (80, 80)),
        ("80", "80", (80, 80)),
        ("80-81", "80-81", (80, 81)),
        ("80-80", "80", (80, 80)),
        ("1-65535", "1-65535", (1, 65535)),
        ("any", "any", (0, 65535)),
    ],
)
def test_ports_have_one_spelling(given_, spelled, ports):
    assert canonical_ports(given_) == spelled
    assert port_range(spelled) == ports


@pytest.mark.parametrize(
    ("wrong", "detail", "hint"),
    [
        (0, "0 has port 0, which nobody listens on", PORT_HINT),
        ("0-65535", "0-65535 has port 0, which nobody listens on", "write any for all ports"),
        (65536, "65536 has no port of 16 bits", PORT_HINT),
        ("80-70000", "80-70000 has no port of 16 bits", PORT_HINT),
        ("81-80", "81-80 ends before it begins", "write 80-81"),
        *((text, "is neither a port nor a range of ports", PORT_HINT)
          for text in ("", "http", "080", "+80", "80-", "-80", "80,81", "80:81", " 80", "80\n", "٨٠", "Any", True, -1)),
    ],
    ids=str,
)  # fmt: skip
def test_ports_that_cannot_be_say_what_would_do(wrong, detail, hint):
    with pytest.raises(InvalidInput) as caught:
        canonical_ports(wrong)
    assert (caught.value.field, caught.value.hint) == ("port", hint)
    assert detail in caught.value.detail


def test_statuses_have_one_spelling():
    assert canonical_statuses("200, 301-302") == "200,301-302"
    assert status_ranges("200,301-302") == ((200, 200), (301, 302))
    for wrong in ("", "2xx", "600", "99", "200-", "200,,204", "200;204", "200-" * 60):
        with pytest.raises(InvalidInput, match="names no statuses"):
            canonical_statuses(wrong)


@given(st.integers(3, 20_000))
def test_a_prime_is_what_nothing_divides(number):
    prime = all(number % divisor for divisor in range(2, number))
    assert is_prime(number) is prime
    below, above = nearest_primes(number)
    assert is_prime(below)
    assert is_prime(above)
    assert not any(map(is_prime, [*range(below + 1, number), *range(number + 1, above)]))


def test_a_ring_is_a_prime_in_range():
    assert [ring_size(size) for size in (RING_LEAST, 65537, RING_MOST)] == [251, 65537, 1_048_573]
    for size in (250, 2, 0, -7, RING_MOST + 1, True, "65537"):
        with pytest.raises(InvalidInput, match="give a prime from 251 to 1048573"):
            ring_size(size)
    with pytest.raises(InvalidInput, match="1000 is not a prime: the nearest are 997 and 1009"):
        ring_size(1000)
