"""The keyed hashes of addresses, as the programs reckon them; see mix4 and mix6 in bpf/lib/cache.h."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1


class Mixing:
    """The hashes of one instance, whose key is in `state`, the mapped array of struct state."""

    def __init__(self, state: NDArray[Any]) -> None:
        self._state = state

    def mix4(self, packed: bytes) -> int:
        """Return the program's hash of an IPv4 address (mix4 in bpf/lib/cache.h)."""
        x = int.from_bytes(packed, "little")
        x = (x + int(self._state["mix_add"][0])) * int(self._state["mix_multiply"][0]) & MASK32
        x ^= x >> 16
        x = x * 0x7FEB352D & MASK32
        return x ^ x >> 15

    def mix6(self, packed: bytes) -> int:
        """Return the program's hash of an IPv6 address (mix6 in bpf/lib/cache.h)."""
        first, second = int.from_bytes(packed[:8], "little"), int.from_bytes(packed[8:], "little")
        key = int(self._state["mix_add"][0]) << 32 | int(self._state["mix_multiply"][0])
        x = (first ^ key) * 0x9E3779B97F4A7C15 & MASK64
        x ^= x >> 32
        x = (x + second) * key & MASK64
        x ^= x >> 32
        x = x * 0xD6E8FEB86659FD93 & MASK64
        return x >> 32

    def local_bit(self, packed: bytes) -> int:
        """Return an IPv4 address's bit in local_bloom (local_bit in bpf/lib/cache.h)."""
        return (int.from_bytes(packed, "little") * int(self._state["mix_multiply"][0]) & MASK32) >> 23

    def unmix4(self, mixed: NDArray[Any]) -> NDArray[np.uint32]:
        """Return the IPv4 addresses, as little-endian u32 of their octets, whose hashes these are; inverts mix4."""
        x = mixed.astype(np.uint32)
        x ^= (x >> np.uint32(15)) ^ (x >> np.uint32(30))
        x = x * np.uint32(pow(0x7FEB352D, -1, 1 << 32))
        x ^= x >> np.uint32(16)
        x = x * np.uint32(pow(int(self._state["mix_multiply"][0]), -1, 1 << 32))
        return x - np.uint32(self._state["mix_add"][0])
