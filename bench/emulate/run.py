"""Runs a translated program on one packet, instruction by instruction, and counts what it does."""

import struct
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from emulate import alu
from emulate.dump import LOAD_64, Instruction, Translated, called, translated
from emulate.helpers import ALIASES, HEADROOM, LOOKUP, TAILROOM, Helpers, jiffies
from emulate.inlined import Inlined, inlined
from emulate.memory import PAGE, Constant, Elements, Fault, Hashed, Memory, Region
from hopline.kernel import Program

# classes and modes of an instruction's code (Documentation/bpf/standardization/instruction-set.rst)
LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(8)
SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
MEM, ATOMIC = 0x60, 0xC0
FROM_REGISTER = 0x08
JA, CALL, EXIT = 0x00, 0x80, 0x90
PSEUDO_CALL, PSEUDO_MAP, PSEUDO_VALUE = 1, 1, 2
ADD_64_IMMEDIATE = 0x07
TAIL_CALL = 12
MASK = alu.MASK
NOT_MAPS = {"packet", "stack", "context", "queue", "device", "jiffies"}
STACK, CALLS, STEPS = 512, 8, 1_000_000


@dataclass
class Cost:
    """What one packet cost, and what became of it."""

    action: int
    data: bytes
    steps: Counter[int] = field(default_factory=Counter)  # instructions executed, by slot
    inside: int = 0  # of them, those that a look-up or helper which the kernel inlined is longer than one call
    calls: Counter[str] = field(default_factory=Counter)  # helpers that are called, by name, look-ups with them
    helpers: Counter[str] = field(default_factory=Counter)  # helpers that the source calls, look-ups left out
    lookups: Counter[str] = field(default_factory=Counter)  # by map
    lines: dict[str, int] = field(default_factory=dict)  # lines of 64 octets, by what they are of
    loads: dict[str, int] = field(default_factory=dict)
    stores: dict[str, int] = field(default_factory=dict)
    written: dict[str, dict[int | bytes, bytes]] = field(default_factory=dict)  # map → key → value

    @property
    def instructions(self) -> int:
        """Instructions that this kernel executes, those in helpers that it calls not counted."""
        return self.steps.total()

    @property
    def map_lines(self) -> int:
        """Lines of map values, and of what leads to them."""
        return sum(count for kind, count in self.lines.items() if kind not in NOT_MAPS)

    @property
    def normal(self) -> int:
        """Instructions with each look-up and helper as one, whatever this kernel makes of it."""
        return self.instructions - self.inside


class Machine:
    """One run of one program."""

    def __init__(self, program: Translated, marks: Inlined, packet: bytes, ifindex: int, now: int | None) -> None:
        self.program, self.inlined = program, marks
        self.memory = Memory()
        self.memory.kernel.value = jiffies() if now is None else now
        if len(packet) > PAGE - HEADROOM - TAILROOM:
            raise Fault(f"a frame of {len(packet)} octets is in several buffers")
        self.frame = Region("packet", bytearray(HEADROOM) + bytearray(packet) + bytearray(TAILROOM))
        base = self.memory.add(self.frame)
        device = self.memory.add(Constant("device", bytearray(), ifindex))
        queue = self.memory.add(Constant("queue", bytearray(), device))
        # struct xdp_buff: data, data_end, data_meta, data_hard_start, rxq (include/net/xdp.h)
        start = base + HEADROOM
        words = struct.pack("<5Q", start, start + len(packet), start, base, queue)
        self.context = Region("context", bytearray(words.ljust(64, b"\0")))
        context = self.memory.add(self.context)
        self.helpers = Helpers(self.memory, context, ifindex)
        self.registers = [0] * 11
        self.registers[1] = context
        self.stack: list[tuple[int, list[int]]] = []
        self.registers[10] = self.memory.add(Region("stack", bytearray(STACK * CALLS))) + STACK * CALLS
        self.cost = Cost(0, b"")

    def run(self) -> Cost:
        """Run to the end; what it cost."""
        at = 0
        for _ in range(STEPS):
            instruction = self.program.instructions[at]
            if instruction is None:
                raise Fault(f"a jump into the middle of instruction {at - 1}")
            self.cost.steps[at] += 1
            if at in self.inlined.inside:
                self.cost.inside += 1
            elif at in self.inlined.helpers:
                self.cost.helpers[self.inlined.helpers[at]] += 1
            try:
                following = self._step(at, instruction)
            except Fault as fault:
                raise Fault(f"{self.program.name}, instruction {at}, {self.program.lines[at]}: {fault}") from None
            if following is None:
                return self._settled()
            at = following
        raise Fault(f"{self.program.name} has not ended after {STEPS} instructions")

    def _step(self, at: int, instruction: Instruction) -> int | None:
        kind = instruction.code & 7
        if kind in (ALU, ALU64):
            return self._calculate(at, instruction)
        if kind in (JMP, JMP32):
            return self._jump(at, instruction)
        if instruction.code == LOAD_64:
            self.registers[instruction.dst] = self._constant(instruction)
            return at + 2
        if kind == LDX:
            self._load(instruction)
        elif instruction.code & 0xE0 == ATOMIC and kind == STX:
            self._atomic(instruction)
        elif instruction.code & 0xE0 == MEM:
            value = self.registers[instruction.src] if kind == STX else instruction.imm
            address = self.registers[instruction.dst] + instruction.off & MASK
            self.memory.store(address, SIZES[instruction.code & 0x18], value)
        else:
            raise Fault(f"code {instruction.code:#x} is not known")
        return at + 1

    def _constant(self, instruction: Instruction) -> int:
        if instruction.src == PSEUDO_MAP:
            return self.memory.map_at(instruction.imm)
        if instruction.src == PSEUDO_VALUE:
            return self.memory.value_at(instruction.imm, instruction.more)
        return (instruction.imm & 0xFFFFFFFF) | (instruction.more & 0xFFFFFFFF) << 32

    def _calculate(self, at: int, instruction: Instruction) -> int:
        registers = self.registers
        if instruction.code == ADD_64_IMMEDIATE:
            self._note_lookup(at, registers[instruction.dst], instruction.imm)
        operand = registers[instruction.src] if instruction.code & FROM_REGISTER else instruction.imm & MASK
        registers[instruction.dst] = alu.calculate(instruction, registers[instruction.dst], operand)
        return at + 1

    def _note_lookup(self, at: int, address: int, by: int) -> None:
        """An inlined look-up in an array begins by adding, to the map's address, where its values are."""
        table = self.memory.map_of(address) if by > 0 else None
        if table is not None and not isinstance(table, Hashed):
            table.start = by
            self.cost.lookups[name_of(table)] += 1

    def _load(self, instruction: Instruction) -> None:
        address = self.registers[instruction.src] + instruction.off & MASK
        size = SIZES[instruction.code & 0x18]
        value = self.memory.load(address, size)
        if instruction.code & 0xE0 != MEM:
            raise Fault(f"code {instruction.code:#x} is not known")
        if self.memory.region(address).kind in ("queue", "device"):
            self.cost.inside += 1  # on the way from the context to a field that the kernel keeps elsewhere
        self.registers[instruction.dst] = value

    def _atomic(self, instruction: Instruction) -> None:
        size = SIZES[instruction.code & 0x18]
        address = self.registers[instruction.dst] + instruction.off & MASK
        old = self.memory.load(address, size)
        operand = self.registers[instruction.src]
        new = alu.exchanged(instruction.imm, size, old, operand, self.registers[0])
        if new is not None:
            self.memory.store(address, size, new)
        if instruction.imm == alu.COMPARE_EXCHANGE:
            self.registers[0] = old
        elif instruction.imm & alu.FETCH:
            self.registers[instruction.src] = old

    def _jump(self, at: int, instruction: Instruction) -> int | None:
        code = instruction.code & 0xF0
        if code == CALL:
            return self._call(at, instruction)
        if code == EXIT:
            return self._leave()
        if code == JA:
            return at + 1 + (instruction.imm if instruction.code & 7 == JMP32 else instruction.off)
        left = self.registers[instruction.dst]
        right = self.registers[instruction.src] if instruction.code & FROM_REGISTER else instruction.imm & MASK
        return at + 1 + (instruction.off if alu.holds(instruction.code, left, right) else 0)

    def _leave(self) -> int | None:
        if not self.stack:
            return None
        at, self.registers[6:11] = self.stack.pop()
        return at

    def _call(self, at: int, instruction: Instruction) -> int:
        if instruction.src == PSEUDO_CALL:
            self.stack.append((at + 1, self.registers[6:11]))
            self.registers[10] -= STACK
            return at + 1 + instruction.off
        if instruction.imm == TAIL_CALL:
            raise Fault("a tail call: give the program behind it")
        name = called(instruction.imm)
        helper = ALIASES.get(name, name)
        self.cost.calls[name] += 1
        if helper == LOOKUP:
            table = self.memory.map_of(self.registers[1])
            assert table is not None, "a look-up in what is no map"
            self.cost.lookups[name_of(table)] += 1
            table.start = self.inlined.value_offset.get(at, 0) if isinstance(table, Hashed) else table.start
        else:
            self.cost.helpers[helper] += 1
        self.registers[0] = self.helpers.call(helper, self.registers[1:6])
        return at + 1

    def _settled(self) -> Cost:
        cost, memory = self.cost, self.memory
        start, end = struct.unpack("<QQ", self.context.data[:16])
        base = start & ~0xFFFFFFFF
        cost.action, cost.data = self.registers[0] & 0xFFFFFFFF, bytes(self.frame.data[start - base : end - base])
        cost.lines = {kind: len(lines) for kind, lines in memory.lines.items()}
        cost.loads, cost.stores = dict(memory.loads), dict(memory.stores)
        for table in memory.maps.values():
            changed = {table.key(i): bytes(table.values[i][: table.map.value_size]) for i in sorted(table.written)}
            if changed:
                cost.written[table.map.name] = changed
        return cost


def name_of(table: Elements) -> str:
    """The map's name, as tables have it."""
    return table.map.name


@lru_cache(maxsize=8)
def prepared(program_id: int) -> tuple[Translated, Inlined]:
    """A program to be run; read once, since the kernel changes none that is loaded and gives no id again."""
    with Program.from_id(program_id) as program:
        found = translated(program)
    return found, inlined(found)


def emulated(program: Program, packet: bytes, ifindex: int, now: int | None = None) -> Cost:
    """Run a loaded program's translation on a packet, in the calling thread's namespace; no map is changed.

    `now` is jiffies, the kernel's unless given.
    """
    return Machine(*prepared(program.id), packet, ifindex, now).run()
