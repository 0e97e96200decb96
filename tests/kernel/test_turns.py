"""The routine that matches backends with slots, beside a plain one in Python."""

import numpy as np
import pytest

from hopline.kernel.turns import fill


def plainly(offsets, skips, steps, quotas, slots):
    """All pairs, the best first: whoever finds the slot free and lacks one has it."""
    pairs = []
    for i in range(len(offsets)):
        for rank in range(slots):
            score = rank * int(steps[i]) & ~0xFFF
            pairs.append((score, i, rank, (int(offsets[i]) + rank * int(skips[i])) % slots))
    ring, lacks = [None] * slots, [int(quota) for quota in quotas]
    for _, i, _, slot in sorted(pairs):
        if ring[slot] is None and lacks[i]:
            ring[slot] = i
            lacks[i] -= 1
    return ring


@pytest.mark.parametrize("seed", range(20))
def test_the_matching_is_the_one_that_nobody_would_leave(seed):
    rng = np.random.default_rng(seed)
    slots, count = int(rng.choice([53, 101, 251])), int(rng.integers(1, 20))
    quotas = rng.multinomial(slots, rng.dirichlet(np.ones(count)))
    offsets, skips = rng.integers(0, slots, count), rng.integers(1, slots, count)
    steps = (1 << 43) // rng.integers(1, 9, count)
    assert fill(offsets, skips, steps, quotas, slots).tolist() == plainly(offsets, skips, steps, quotas, slots)


@pytest.mark.parametrize(
    ("offsets", "skips", "steps", "quotas", "slots", "message"),
    [
        ([], [], [], [], 251, "1 to 4095 backends"),
        ([0, 1], [1], [1], [251], 251, "arrays of one length"),
        ([251], [1], [1], [251], 251, "an offset is 0 to 250, a skip 1 to 250"),
        ([0], [0], [1], [251], 251, "an offset is 0 to 250, a skip 1 to 250"),
        ([0], [251], [1], [251], 251, "an offset is 0 to 250, a skip 1 to 250"),
        ([0], [1], [1], [250], 251, "quotas add up to 250"),
        ([0], [1], [1 << 60], [251], 251, "a step is less than"),
    ],
)
def test_what_cannot_be_matched_is_refused(offsets, skips, steps, quotas, slots, message):
    with pytest.raises(ValueError, match=message):
        fill(np.array(offsets), np.array(skips), np.array(steps), np.array(quotas), slots)
