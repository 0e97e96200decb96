"""Where the kernel put code in place of a call, so that a look-up can be counted as one whatever it became."""

from dataclasses import dataclass, field

from emulate.dump import CALL, LOAD_64, Instruction, Translated, called

ADD_IMMEDIATE, LOAD_INDEX, LOAD_WORD = 0x07, 0x61, 0x79
JUMP_GE, JUMP_EQ = 0x35, 0x15
PSEUDO_CALL = 1
ELEMENT = {"__htab_map_lookup_elem"}  # returns struct htab_elem, not the value in it
KERNEL_HIGH = -0x8000  # the upper half of an address of the kernel's, as a number with a sign, is above this


@dataclass
class Inlined:
    """`inside`: slots that are no instruction of the program's own. `helpers`: slot → helper that begins there.
    `value_offset`: slot of a call → where in the element that it returns the value begins.
    """

    inside: set[int] = field(default_factory=set)
    helpers: dict[int, str] = field(default_factory=dict)
    value_offset: dict[int, int] = field(default_factory=dict)


def inlined(program: Translated) -> Inlined:
    """Find what the kernel (kernel/bpf/verifier.c, map_gen_lookup of the map types) put in place of calls."""
    found = Inlined()
    for slot, instruction in enumerate(program.instructions):
        if instruction is None:
            continue
        following = [each for each in program.instructions[slot + 1 : slot + 4] if each is not None]
        if instruction.code == ADD_IMMEDIATE and _array(instruction, following):
            # bounds check, scaling and addition, up to the NULL where the check fails
            found.inside.update(range(slot + 1, slot + 3 + following[1].off + 1))
        elif instruction.code == CALL and instruction.src != PSEUDO_CALL and called(instruction.imm) in ELEMENT:
            _element(program, slot, following, found)
        elif instruction.code == LOAD_64 and _kernel_word(instruction, following):
            found.inside.add(slot + 2)
            found.helpers[slot] = "bpf_jiffies64"
    return found


def _array(add: Instruction, following: list[Instruction]) -> bool:
    if len(following) < 2:
        return False
    index, check = following[:2]
    return (
        add.dst == 1
        and (index.code, index.dst, index.src, index.off) == (LOAD_INDEX, 0, 2, 0)
        and (check.code, check.dst) == (JUMP_GE, 0)
    )


def _element(program: Translated, slot: int, following: list[Instruction], found: Inlined) -> None:
    """A look-up in a hash: the call returns the element, and what follows adds where its value begins."""
    check = following[0] if following else None
    if check is None or (check.code, check.dst, check.imm) != (JUMP_EQ, 0, 0) or check.off < 1:
        return
    last = slot + 1 + check.off
    add = program.instructions[last]
    if add is not None and (add.code, add.dst) == (ADD_IMMEDIATE, 0) and add.imm > 0:
        found.inside.update(range(slot + 1, last + 1))
        found.value_offset[slot] = add.imm


def _kernel_word(load: Instruction, following: list[Instruction]) -> bool:
    return (
        load.src == 0
        and KERNEL_HIGH <= load.more < 0
        and bool(following)
        and (following[0].code, following[0].dst, following[0].src) == (LOAD_WORD, load.dst, load.dst)
    )
