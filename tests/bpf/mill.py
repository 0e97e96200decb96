"""Random arithmetic, as a BPF program whose instructions are spelled out: what the emulator is held against.

Each step loads its registers afresh and stores them all, so that one wrong result is not lost in those that follow.
Instructions are given as numbers, since assemblers do not know all of them (clang 14 has no modulo and few atomics).
"""

import random
from collections.abc import Iterator

REGISTERS = range(1, 6)
GROUND = 6  # the register that holds the address of the words
INPUTS, RESULTS, STEPS = 8, 7, 60
WORDS = INPUTS + RESULTS * STEPS  # of 64 bits: what all steps read, then what each step writes

# the instruction set's codes (Documentation/bpf/standardization/instruction-set.rst)
LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(1, 8)
MEM, ATOMIC, REGISTER, IMMEDIATE_64 = 0x60, 0xC0, 0x08, 0x18
MASK = (1 << 64) - 1
SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
BINARY = {"add": 0x00, "sub": 0x10, "mul": 0x20, "div": 0x30, "or": 0x40, "and": 0x50, "mod": 0x90, "xor": 0xA0,
          "mov": 0xB0}  # fmt: skip
SHIFTS = {"lsh": 0x60, "rsh": 0x70, "arsh": 0xC0}
NEGATE, SWAP = 0x80, 0xD0
CONDITIONS = (0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xB0, 0xC0, 0xD0)
ATOMICS = (0x00, 0x40, 0x50, 0xA0, 0x01, 0x41, 0x51, 0xA1, 0xE1, 0xF1)

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct words {
	__u64 word[%(words)d];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct words);
} ground SEC(".maps");

SEC("xdp")
int mill(struct xdp_md *ctx __attribute__((unused)))
{
	__u32 zero = 0;
	struct words *words = bpf_map_lookup_elem(&ground, &zero);

	if (!words)
		return XDP_ABORTED;
	asm volatile("r6 = %%0; .quad %(numbers)s"
		: : "r"(words) : "r0", "r1", "r2", "r3", "r4", "r5", "r6", "memory");
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
"""


def encoded(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> int:
    """One instruction as the number that it is in memory."""
    return code | dst << 8 | src << 12 | (off & 0xFFFF) << 16 | (imm & 0xFFFFFFFF) << 32


def _arithmetic(draw: random.Random, _: int) -> Iterator[int]:
    kind, bits = draw.choice(((ALU, 32), (ALU64, 64)))
    dst, src = draw.choice(REGISTERS), draw.choice(REGISTERS)
    # by a divisor of zero the verifier refuses
    number = draw.choice((1, -1, draw.randint(2, 99), draw.getrandbits(31) + 1, -draw.getrandbits(31) - 1))
    yield draw.choice(
        (
            encoded(kind | REGISTER | draw.choice(list(BINARY.values())), dst, src),
            encoded(kind | draw.choice(list(BINARY.values())), dst, imm=number),
            encoded(kind | REGISTER | draw.choice(list(SHIFTS.values())), dst, src),
            encoded(kind | draw.choice(list(SHIFTS.values())), dst, imm=draw.randrange(bits)),
            encoded(kind | NEGATE, dst),
            encoded(ALU | SWAP | draw.choice((0, REGISTER)), dst, imm=draw.choice((16, 32, 64))),
        )
    )


def _constant(draw: random.Random, _: int) -> Iterator[int]:
    yield encoded(IMMEDIATE_64, draw.choice(REGISTERS), imm=draw.getrandbits(32))
    yield encoded(0, imm=draw.getrandbits(32))


def _jump(draw: random.Random, _: int) -> Iterator[int]:
    code = draw.choice((JMP, JMP32)) | draw.choice(CONDITIONS)
    dst, src = draw.choice(REGISTERS), draw.choice(REGISTERS)
    number = draw.choice((0, 1, -1, draw.getrandbits(32)))
    yield draw.choice((encoded(code | REGISTER, dst, src, off=1), encoded(code, dst, off=1, imm=number)))
    yield encoded(ALU64 | BINARY["add"], draw.choice(REGISTERS), imm=draw.getrandbits(31))


def _memory(draw: random.Random, at: int) -> Iterator[int]:
    size = draw.choice(list(SIZES))
    at, register = at + draw.randrange(0, 8, size), draw.choice(REGISTERS)
    yield draw.choice(
        (
            encoded(LDX | MEM | SIZES[size], register, GROUND, at),
            encoded(STX | MEM | SIZES[size], GROUND, register, at),
            encoded(ST | MEM | SIZES[size], GROUND, off=at, imm=draw.getrandbits(32)),
        )
    )


def _atomic(draw: random.Random, at: int) -> Iterator[int]:
    size = draw.choice((4, 8))
    at += draw.randrange(0, 8, size)
    if draw.random() < 0.5:  # what a compare-and-exchange compares with is then the word itself
        yield encoded(LDX | MEM | SIZES[size], 0, GROUND, at)
    yield encoded(STX | ATOMIC | SIZES[size], GROUND, draw.choice(REGISTERS), at, draw.choice(ATOMICS))


def _step(draw: random.Random, at: int) -> Iterator[int]:
    """Load, do one thing, store all: r1 to r5, r0, and a word in memory that begins as one of them."""
    everything = (*REGISTERS, 0)
    for register in everything:
        yield encoded(LDX | MEM | SIZES[8], register, GROUND, 8 * draw.randrange(INPUTS))
    word = at + 8 * len(everything)
    yield encoded(STX | MEM | SIZES[8], GROUND, draw.choice(REGISTERS), word)
    yield from draw.choice((_arithmetic, _arithmetic, _constant, _jump, _memory, _atomic))(draw, word)
    for i, register in enumerate(everything):
        yield encoded(STX | MEM | SIZES[8], GROUND, register, at + 8 * i)


def source(seed: int) -> str:
    """C of a random program over a map `ground` of one value, of which the first INPUTS words are read."""
    draw = random.Random(seed)
    numbers = [number for i in range(STEPS) for number in _step(draw, 8 * (INPUTS + RESULTS * i))]
    return SOURCE % {"words": WORDS, "numbers": ", ".join(f"{number:#x}" for number in numbers)}


def inputs(draw: random.Random) -> bytes:
    """Words that are often alike, or at an end of what 32 or 64 bits can say."""
    ends = (0, 1, MASK, 1 << 31, (1 << 31) - 1, 1 << 32, (1 << 32) - 1, 1 << 63, (1 << 63) - 1, draw.getrandbits(64))
    return b"".join(draw.choice(ends).to_bytes(8, "little") for _ in range(INPUTS)).ljust(8 * WORDS, b"\0")
