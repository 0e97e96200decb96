"""What a program calls: look-ups are answered from the kernel's maps, the rest by the kernel itself or as it would."""

import struct
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from emulate.memory import OFFSET, PAGE, Elements, Fault, Hashed, Memory, Pointers
from hopline.kernel import BpfObject, Map, Program

SOURCE = Path(__file__).with_name("ask.bpf.c")
INCLUDES = ("/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu")
FIB_SIZE = 64  # struct bpf_fib_lookup
XDP_REDIRECT, XDP_FLAGS = 4, 3
HEADROOM, TAILROOM = 256, 320  # of a TEST_RUN's frame (net/bpf/test_run.c)
XDP_FRAME = 40  # struct xdp_frame, which the kernel keeps at the start of the headroom
FRAME_MIN = 14

# functions of the kernel by which a helper is called directly, under the helper's name
ALIASES = {
    "__htab_map_lookup_elem": "bpf_map_lookup_elem",
    "trie_lookup_elem": "bpf_map_lookup_elem",
    "array_map_lookup_elem": "bpf_map_lookup_elem",
    "percpu_array_map_lookup_elem": "bpf_map_lookup_elem",
    "htab_map_lookup_elem": "bpf_map_lookup_elem",
    "htab_lru_map_lookup_elem": "bpf_map_lookup_elem",
    "dev_map_redirect": "bpf_redirect_map",
    "bpf_xdp_redirect_map": "bpf_redirect_map",
    "bpf_xdp_redirect": "bpf_redirect",
    "bpf_xdp_fib_lookup": "bpf_fib_lookup",
    "bpf_user_rnd_u32": "bpf_get_prandom_u32",
}
LOOKUP = "bpf_map_lookup_elem"
EINVAL = (1 << 64) - 22


@cache
def oracle() -> tuple[Program, Program]:
    """The two programs of ask.bpf.c, loaded."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "ask.bpf.o"
        flags = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", *(f"-I{path}" for path in INCLUDES)]
        subprocess.run(["clang", *flags, "-c", str(SOURCE), "-o", str(target)], check=True)
        with BpfObject.open(target, "ask") as opened:
            opened.load()
            return opened.program("ask_fib"), opened.program("ask_jiffies")


def signed(number: int) -> int:
    """An argument of 32 bits as the kernel reads it."""
    return (number & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)


def jiffies() -> int:
    """The kernel's jiffies, now."""
    return int.from_bytes(oracle()[1].test_run(bytes(FRAME_MIN)).data[:8], "little")


class Helpers:
    """The helpers, over one memory and one context."""

    def __init__(self, memory: Memory, context: int, ifindex: int) -> None:
        self.memory, self.context, self.ifindex = memory, context, ifindex
        self._by_name: dict[str, Callable[..., int]] = {
            LOOKUP: self._look_up,
            "bpf_redirect_map": self._redirect_map,
            "bpf_redirect": lambda *_: XDP_REDIRECT,
            "bpf_fib_lookup": self._fib_lookup,
            "bpf_get_prandom_u32": lambda *_: 0,
            "bpf_jiffies64": lambda *_: jiffies(),
            "bpf_xdp_get_buff_len": self._length,
            "bpf_xdp_adjust_head": self._adjust_head,
            "bpf_xdp_adjust_tail": self._adjust_tail,
        }

    def call(self, name: str, arguments: list[int]) -> int:
        """Return what helper `name` says to r1 to r5."""
        if name not in self._by_name:
            raise Fault(f"the emulator has no helper {name}: teach it, in bench/emulate/helpers.py")
        return self._by_name[name](*arguments)

    def _table(self, address: int) -> Elements:
        found = self.memory.map_of(address)
        if found is None:
            raise Fault(f"{address:#x} is no map")
        return found

    def _look_up(self, address: int, key_at: int, *_: int) -> int:
        table = self._table(address)
        key = self.memory.read(key_at, table.map.key_size)
        if isinstance(table, Hashed):
            found = table.find(key)
            return 0 if found is None else address + found
        index = int.from_bytes(key, "little")
        if index >= table.map.max_entries:
            return 0
        table.start = table.start or PAGE
        values = table.values_at if isinstance(table, Pointers) else address + table.start
        return values + index * table.stride

    def _redirect_map(self, address: int, key: int, flags: int, *_: int) -> int:
        table: Map = self._table(address).map
        key &= 0xFFFFFFFF
        there = key < table.max_entries and table.get(key)
        return XDP_REDIRECT if there else flags & XDP_FLAGS

    def _fib_lookup(self, _: int, asked_at: int, size: int, flags: int, *__: int) -> int:
        if flags & 0xFFFFFFFF or size & 0xFFFFFFFF != FIB_SIZE:
            raise Fault(f"bpf_fib_lookup with flags {flags:#x} and {size} octets: teach bench/emulate/ask.bpf.c")
        answer = oracle()[0].test_run(self.memory.read(asked_at, FIB_SIZE), ifindex=self.ifindex)
        self.memory.write(asked_at, answer.data[:FIB_SIZE])
        return answer.retval & (1 << 64) - 1

    def _frame(self) -> tuple[int, int]:
        return struct.unpack("<QQ", self.memory.read(self.context, 16))

    def _length(self, *_: int) -> int:
        data, end = self._frame()
        return end - data

    def _adjust_head(self, _: int, by: int, *__: int) -> int:
        data, end = self._frame()
        moved = data + signed(by)
        if moved > end - FRAME_MIN or moved & OFFSET < XDP_FRAME:
            return EINVAL
        self.memory.write(self.context, moved.to_bytes(8, "little"))
        self.memory.write(self.context + 16, moved.to_bytes(8, "little"))
        return 0

    def _adjust_tail(self, _: int, by: int, *__: int) -> int:
        data, end = self._frame()
        moved = end + signed(by)
        if moved - data < FRAME_MIN or moved > end + TAILROOM:
            return EINVAL
        self.memory.write(self.context + 8, moved.to_bytes(8, "little"))
        return 0
