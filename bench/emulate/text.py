"""Instructions as text, in the manner of the verifier's log."""

from emulate.dump import CALL, LOAD_64, Instruction, called

LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(1, 8)
FROM_REGISTER = 0x08
SIZES = {0x00: "u32", 0x08: "u16", 0x10: "u8", 0x18: "u64"}
OPERATIONS = {
    0x00: "+=", 0x10: "-=", 0x20: "*=", 0x30: "/=", 0x40: "|=", 0x50: "&=", 0x60: "<<=", 0x70: ">>=", 0x90: "%=",
    0xA0: "^=", 0xB0: "=", 0xC0: "s>>=",
}  # fmt: skip
CONDITIONS = {
    0x10: "==", 0x20: ">", 0x30: ">=", 0x40: "&", 0x50: "!=", 0x60: "s>", 0x70: "s>=", 0xA0: "<", 0xB0: "<=",
    0xC0: "s<", 0xD0: "s<=",
}  # fmt: skip
NEGATE, MOVE, SWAP, GO, EXIT, ATOMIC = 0x80, 0xB0, 0xD0, 0x00, 0x90, 0xC0


def text_of(instruction: Instruction) -> str:
    """One instruction as text."""
    kind, letter = instruction.code & 7, "w" if instruction.code & 7 in (ALU, JMP32) else "r"
    target = f"{letter}{instruction.dst}"
    operand = f"{letter}{instruction.src}" if instruction.code & FROM_REGISTER else f"{instruction.imm:#x}"
    if instruction.code == LOAD_64:
        return f"r{instruction.dst} = {constant(instruction)}"
    if kind in (ALU, ALU64):
        return arithmetic(instruction, target, operand)
    if kind in (JMP, JMP32):
        return jump(instruction, target, operand)
    size = SIZES[instruction.code & 0x18]
    if kind == LDX:
        return f"r{instruction.dst} = *({size} *)(r{instruction.src} {instruction.off:+d})"
    place = f"*({size} *)(r{instruction.dst} {instruction.off:+d})"
    if instruction.code & 0xE0 == ATOMIC:
        return f"atomic {instruction.imm:#x} {place}, r{instruction.src}"
    return f"{place} = {f'r{instruction.src}' if kind == STX else f'{instruction.imm:#x}'}"


def constant(instruction: Instruction) -> str:
    if instruction.src:
        return f"map {instruction.imm}" + (f" value +{instruction.more}" if instruction.src == 2 else "")
    return f"{(instruction.imm & 0xFFFFFFFF) | (instruction.more & 0xFFFFFFFF) << 32:#x}"


def arithmetic(instruction: Instruction, target: str, operand: str) -> str:
    operation = instruction.code & 0xF0
    if operation == NEGATE:
        return f"{target} = -{target}"
    if operation == SWAP:
        return f"{target} = swap{instruction.imm} {target}"
    if operation == MOVE and instruction.off:
        return f"{target} = this_cpu({operand})"
    return f"{target} {OPERATIONS[operation]} {operand}"


def jump(instruction: Instruction, target: str, operand: str) -> str:
    operation = instruction.code & 0xF0
    if instruction.code == CALL:
        return f"call {called(instruction.imm)}" if not instruction.src else f"call pc{instruction.off:+d}"
    if operation == EXIT:
        return "exit"
    if operation == GO:
        return f"goto pc{instruction.imm if instruction.code & 7 == JMP32 else instruction.off:+d}"
    return f"if {target} {CONDITIONS[operation]} {operand} goto pc{instruction.off:+d}"
