"""Arithmetic, comparisons and atomics of BPF instructions (-mcpu=v3), on numbers of 64 bits without sign."""

from emulate.dump import Instruction
from emulate.memory import Fault

MASK = (1 << 64) - 1
ALU64, JMP32 = 7, 6
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR, MOV, ARSH, END = range(0x00, 0xE0, 0x10)
FROM_REGISTER = 0x08
FETCH, EXCHANGE, COMPARE_EXCHANGE = 0x01, 0xE1, 0xF1
PER_CPU_ADDRESS = -1


def signed(value: int, bits: int) -> int:
    """The number that the lowest `bits` mean with a sign."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def calculate(instruction: Instruction, left: int, right: int) -> int:
    """Return what an instruction of classes ALU and ALU64 leaves in its destination."""
    operation = instruction.code & 0xF0
    bits = 64 if instruction.code & 7 == ALU64 else 32
    if operation == END:
        return swapped(instruction, left)
    if operation == MOV:
        if instruction.off not in (0, PER_CPU_ADDRESS):
            raise Fault("a move that extends a sign")
        return right & (1 << bits) - 1
    if instruction.off:
        raise Fault("a division with a sign")
    return arithmetic(operation, left, right, bits) & (1 << bits) - 1


def arithmetic(operation: int, left: int, right: int, bits: int) -> int:
    """The result of an operation, which the caller cuts to `bits`."""
    mask = (1 << bits) - 1
    left, right = left & mask, right & mask
    shift = right & bits - 1
    results = {
        ADD: lambda: left + right,
        SUB: lambda: left - right,
        MUL: lambda: left * right,
        DIV: lambda: left // right,  # the verifier has put a check for zero in front
        OR: lambda: left | right,
        AND: lambda: left & right,
        LSH: lambda: left << shift,
        RSH: lambda: left >> shift,
        NEG: lambda: -left,
        MOD: lambda: left % right,
        XOR: lambda: left ^ right,
        ARSH: lambda: signed(left, bits) >> shift,
    }
    return results[operation]()


def swapped(instruction: Instruction, value: int) -> int:
    """Byte order: to big endian, or cut only, on a machine that is little endian itself."""
    if instruction.code & 7 == ALU64:
        raise Fault("a swap in any case")
    size = instruction.imm // 8
    octets = (value & (1 << instruction.imm) - 1).to_bytes(size, "little")
    return int.from_bytes(octets, "big" if instruction.code & FROM_REGISTER else "little")


def holds(code: int, left: int, right: int) -> bool:
    """Whether a conditional jump is taken."""
    bits = 32 if code & 7 == JMP32 else 64
    mask = (1 << bits) - 1
    a, b = left & mask, right & mask
    x, y = signed(a, bits), signed(b, bits)
    conditions = {
        0x10: a == b, 0x20: a > b, 0x30: a >= b, 0x40: bool(a & b), 0x50: a != b, 0x60: x > y, 0x70: x >= y,
        0xA0: a < b, 0xB0: a <= b, 0xC0: x < y, 0xD0: x <= y,
    }  # fmt: skip
    if code & 0xF0 not in conditions:
        raise Fault(f"a jump of code {code:#x}")
    return conditions[code & 0xF0]


def exchanged(operation: int, size: int, old: int, operand: int, compared: int) -> int | None:
    """Return what an atomic operation stores; None where a compare-and-exchange does not."""
    mask = (1 << 8 * size) - 1
    operand, compared = operand & mask, compared & mask
    if operation == COMPARE_EXCHANGE:
        return operand if old == compared else None
    if operation == EXCHANGE:
        return operand
    return arithmetic(operation & ~FETCH, old, operand, 8 * size)
