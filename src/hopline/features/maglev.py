"""Which backend has which slot of a service's ring: exact shares, and little that moves when backends change. Pure.

Preferences are Maglev's (Eisenbud et al., NSDI 2016, section 3.4): each backend wants all slots, in an order that its
address alone decides. Who gets what is a stable matching in place of Maglev's turns; docs/decisions/0011 says why.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from hopline.config.numbers import nearest_primes, ring_size
from hopline.kernel.turns import fill

BACKENDS_MOST = 4095
WEIGHT_MOST = 65535
_UNIT = 1 << 43  # of a slot's choice: times the most slots it is less than 2^64


def ring(backends: Sequence[tuple[str, int]], slots: int) -> NDArray[np.uint16]:
    """Return for each of `slots` slots the index of its backend in `backends`, pairs of address and weight.

    Every backend has within one slot of weight / sum of weights * slots, and one at least where its weight is above 0;
    none where it is 0. (Where so many are owed their one that this cannot be, they have just that, and the others share
    what is left.) The result does not depend on the order of `backends`, but on the text of their addresses.

    InvalidInput: `slots` is no prime from 251 to 1,048,573. ValueError: it is less than backends with a weight; more
    than BACKENDS_MOST backends; two of one address; a weight outside 0 to WEIGHT_MOST; no weight above 0.
    """
    _check(backends, slots)
    digests = [blake2b(address.encode(), digest_size=8).digest() for address, _ in backends]
    order = sorted((i for i, (_, weight) in enumerate(backends) if weight), key=lambda i: (digests[i], backends[i][0]))
    weights = np.array([backends[i][1] for i in order], np.int64)
    keys = np.frombuffer(b"".join(digests[i] for i in order), "<u8")
    offsets = (keys & np.uint64(0xFFFFFFFF)) % np.uint64(slots)
    skips = (keys >> np.uint64(32)) % np.uint64(slots - 1) + np.uint64(1)
    # how far down its list a backend is counts by its weight, or by its one slot where that is more
    steps = np.uint64(_UNIT * slots) // np.maximum(weights * slots, weights.sum()).astype(np.uint64)
    matched = fill(offsets.astype(np.uint32), skips.astype(np.uint32), steps, quotas(weights, slots), slots)
    return np.array(order, np.uint16)[matched]


def quotas(weights: NDArray[np.int64], slots: int) -> NDArray[np.uint32]:
    """Return how many slots backends of weights above 0 have; of equal ones, those that come first may have one more.

    Webster's method (slots one by one to the greatest weight / (2 * slots so far + 1)), which when somebody comes or
    goes takes from nobody to give to another, within one slot of the exact share, which it would not keep by itself.
    """
    total = int(weights.sum())
    share, rest = np.divmod(weights * slots, total)
    least = np.maximum(share - (rest == 0), 1)
    spare = slots - int(least.sum())
    if spare < 0:
        small = weights * slots <= total
        least[small] = 1
        least[~small] = quotas(weights[~small], slots - int(small.sum()))
        return least.astype(np.uint32)
    bids = np.concatenate([weights / (2 * least + 1), np.where(least < share, weights / (2 * least + 3), -1.0)])
    given = np.argsort(-bids, kind="stable")[:spare] % len(weights)
    return (least + np.bincount(given, minlength=len(weights))).astype(np.uint32)


def _check(backends: Sequence[tuple[str, int]], slots: int) -> None:
    ring_size(slots)
    if len(backends) > BACKENDS_MOST:
        raise ValueError(f"{len(backends)} backends: a service has {BACKENDS_MOST} at most")
    seen: set[str] = set()
    for address, weight in backends:
        if address in seen:
            raise ValueError(f"backend {address}: it is there twice")
        if not 0 <= weight <= WEIGHT_MOST:
            raise ValueError(f"backend {address}: weight {weight} is not within 0 and {WEIGHT_MOST}")
        seen.add(address)
    takers = sum(1 for _, weight in backends if weight)
    if not takers:
        raise ValueError("no backend has a weight above 0")
    if takers > slots:
        larger = nearest_primes(takers)[1]
        raise ValueError(f"a ring of {slots} slots is smaller than its {takers} backends: take {larger}")
