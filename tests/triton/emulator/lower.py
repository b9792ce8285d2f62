"""Instructions as Python functions of a machine, its registers, and the lanes that are here.

A register holds an array over lanes, or of one element where all lanes agree, in the unsigned type of its
width (predicates: bool). Constants and special registers lie behind the registers. A step is called as
`step(machine, registers, mask)`; `mask` is None where every lane is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .arithmetic import KINDS, RAW, RULES, Perturbation, from_bf16, known, to_bf16
from .parse import REGISTER, Block, Instruction, Kernel, Unsupported, contracted, live_across

Step = Callable
_NUMBER = re.compile(r"-?(0x[0-9a-fA-F]+|\d+)U?$")
_ADDRESS = re.compile(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\w+))?\s*\]$")
_PAIRS = {"f32x2": (np.float32, 8), "bf16x2": (np.uint16, 4), "f16x2": (np.float16, 4)}
# What LLVM leaves undefined, such as the unused half of a pair, must not matter: NaN.
_POISON = {0: 1, 1: 0xED, 2: 0xFEED, 4: 0xFFFFDEAD, 8: 0xFFFFDEADFFFFDEAD}


@dataclass
class Code:
    """A basic block, lowered."""

    cost: int  # instructions
    end: str  # as `Block.end`
    target: int | None
    guard: tuple[int, bool] | None = None  # of the last instruction: register, negated
    # With their PTX lines, and the registers that nobody reads after them.
    steps: list[tuple[int, Step, list[int]]] = field(default_factory=list)


def bytes_of(t: str) -> int:
    """Of a PTX type."""
    return {"bf16": 2, "f32x2": 8, "bf16x2": 4, "f16x2": 4}.get(t) or (0 if t == "pred" else int(t[1:]) // 8)


def load(t: str, width: int) -> Callable[[np.ndarray], np.ndarray]:
    """A register of `width` bytes as values of a type."""
    if t in _PAIRS:
        kind = _PAIRS[t][0]
        if t == "bf16x2":
            return lambda raw: from_bf16(np.ascontiguousarray(raw).view(kind).reshape(-1, 2))
        return lambda raw: np.ascontiguousarray(raw).view(kind).reshape(-1, 2)
    size = bytes_of(t)
    if size > width or (size == 0) != (width == 0):
        raise Unsupported(f"{t} from a register of {8 * width} bits")
    narrow = RAW[size] if size < width else None
    if t == "bf16":
        return lambda raw: from_bf16(raw.astype(narrow) if narrow else raw)
    kind = KINDS[t]
    if narrow:
        return lambda raw: raw.astype(narrow).view(kind)
    return (lambda raw: raw) if kind == RAW[width] else lambda raw: raw.view(kind)


def store(t: str, width: int) -> Callable[[np.ndarray], np.ndarray]:
    """Values of a type as a register of `width` bytes, extended by zeros, or by the sign of signed types."""
    if t in _PAIRS:
        half = to_bf16 if t == "bf16x2" else lambda x: x.astype(_PAIRS[t][0])
        return lambda x: np.ascontiguousarray(half(x)).reshape(-1).view(RAW[width])
    size = bytes_of(t)
    if size > width or (size == 0) != (width == 0):
        raise Unsupported(f"{t} into a register of {8 * width} bits")
    if t == "bf16":
        return to_bf16
    raw = RAW[width]
    if size < width:
        wide = np.dtype(f"{'i' if t[0] == 's' else 'u'}{width}").type
        return lambda x: x.astype(wide).view(raw)
    return (lambda x: x) if KINDS[t] == raw else lambda x: x.view(raw)


class Program:
    """A kernel that a machine can run."""

    def __init__(self, kernel: Kernel, perturbation: Perturbation) -> None:
        self.kernel, self.perturbation, self.name = kernel, perturbation, kernel.name
        self.slots: dict[object, int] = {}
        self.initial: list[np.ndarray | None] = []
        self.special: dict[str, int] = {}
        blocks = contracted(kernel.blocks) if perturbation.contraction else kernel.blocks
        self.across, undefined = live_across(blocks)
        self.blocks = [self._block(block) for block in blocks]
        for register in undefined:
            width = kernel.width(register)
            self.initial[self.slot(register)] = np.array([_POISON[width]], RAW[width])

    # -- operands
    def slot(self, key: object, value: np.ndarray | None = None) -> int:
        """Where a register or a constant is."""
        if key not in self.slots:
            self.slots[key] = len(self.initial)
            self.initial.append(value)
        return self.slots[key]

    def constant(self, value: int, width: int) -> int:
        raw = np.array([bool(value)]) if width == 0 else np.array([value % (1 << 8 * width)], RAW[width])
        return self.slot((value, width), raw)

    def source(self, operand: str, t: str) -> tuple[int, Callable]:
        """(slot, how to read it) of an operand."""
        if REGISTER.fullmatch(operand):
            return self.slot(operand), load(t, self.kernel.width(operand))
        width = bytes_of(t)
        if operand.startswith("%"):
            self.special[operand] = self.slot(operand)
            return self.special[operand], load(t, 4)
        if _NUMBER.match(operand):
            return self.constant(int(operand.rstrip("U"), 0), width), load(t, width)
        if operand[:2] in ("0f", "0d") and width == (4 if operand[1] == "f" else 8):
            return self.constant(int(operand[2:], 16), width), load(t, width)
        if operand in self.kernel.symbols:
            return self.constant(self.kernel.symbols[operand], width), load(t, width)
        raise Unsupported(f"the operand {operand}")

    def address(self, operand: str, space: str) -> Callable[[list], np.ndarray]:
        """The address in `[register + offset]`."""
        match, t = _ADDRESS.match(operand), "u64" if space == "global" else "u32"
        if match is None:
            raise Unsupported(f"the address {operand}")
        slot, read = self.source(match[1], t)
        offset = KINDS[t](int(match[2] or "0", 0) % (1 << 8 * bytes_of(t)))
        if not offset:
            return lambda registers: read(registers[slot])
        return lambda registers: read(registers[slot]) + offset

    def target(self, register: str, t: str, guard: tuple[str, bool] | None) -> Callable:
        """`put(registers, mask, value)`: lanes not here, or with a false guard, keep what they have."""
        if register == "_":
            return lambda registers, mask, value: None
        slot, write = self.slot(register), store(t, self.kernel.width(register))
        across, test = register in self.across, self.guard(guard)

        def put(registers: list, mask: np.ndarray | None, value: np.ndarray) -> None:
            new, old = write(value), registers[slot]
            if old is not None and (test or across):
                if test:
                    new = np.where(test(registers), new, old)
                if across and mask is not None:
                    new = np.where(mask, new, old)
            registers[slot] = new

        return put

    def guard(self, guard: tuple[str, bool] | None) -> Callable | None:
        """The lanes whose guard is true, as a function of the registers."""
        if guard is None:
            return None
        slot, negated = self.slot(guard[0]), guard[1]
        return lambda registers: ~registers[slot] if negated else registers[slot]

    # -- instructions
    def _block(self, block: Block) -> Code:
        code = Code(len(block.instructions), block.end, block.target)
        last_use: dict[str, int] = {}
        for i in block.instructions:
            try:
                step = self._step(i)
            except (Unsupported, KeyError, ValueError, TypeError) as error:
                raise Unsupported(self.kernel.fault(i.line, f"not supported: {error}")) from error
            if step is None:
                continue
            for register in (*i.reads, *i.writes):
                last_use[register] = len(code.steps)
            code.steps.append((i.line, step, []))
        if block.end in ("bra", "ret") and block.instructions[-1].guard:
            register, negated = block.instructions[-1].guard
            code.guard = self.slot(register), negated
            last_use.pop(register, None)
        for register, at in last_use.items():
            if register not in self.across:
                code.steps[at][2].append(self.slot(register))
        return code

    def _step(self, i: Instruction) -> Step | None:
        special = getattr(self, f"_{i.op}", None)
        if i.op in ("bra", "ret"):
            return None
        if special:
            return special(i)
        if i.op not in RULES:
            raise Unsupported(f"the opcode {i.op}")
        function, sources, t = RULES[i.op](i.modifiers[:-1], i.type, self.perturbation)
        targets = i.operands[0].split("|")  # two predicates of a comparison of pairs
        if len(i.operands) != len(sources) + 1 or len(targets) != 1 + (i.op == "setp" and i.type in _PAIRS):
            raise Unsupported("this number of operands")
        puts = [self.target(x, t, i.guard) for x in targets]
        read = [self.source(x, kind) for x, kind in zip(i.operands[1:], sources, strict=True)]

        def step(machine, registers, mask):
            value = function(*[how(registers[slot]) for slot, how in read])
            if len(puts) == 1:
                return puts[0](registers, mask, value)
            for n, put in enumerate(puts):
                put(registers, mask, value[:, n])

        return step

    def _mov(self, i: Instruction) -> Step:
        t = i.type if i.type == "pred" else f"b{8 * bytes_of(i.type)}"
        known(i.modifiers[:-1])
        if i.operands[0].startswith("{"):
            parts = _vector(i.operands[0])
            slot, read = self.source(i.operands[1], t)
            bits = 8 * bytes_of(t) // len(parts)
            puts = [self.target(part, f"b{bits}", i.guard) for part in parts]
            shifts = [KINDS[t](bits * n) for n in range(len(parts))]

            def split(machine, registers, mask):
                x = read(registers[slot])
                for put, shift in zip(puts, shifts, strict=True):
                    put(registers, mask, (x >> shift).astype(KINDS[f"b{bits}"]))

            return split
        put = self.target(i.operands[0], t, i.guard)
        parts = _vector(i.operands[1])
        if len(parts) == 1:
            slot, read = self.source(parts[0], t)
            return lambda machine, registers, mask: put(registers, mask, read(registers[slot]))
        bits = 8 * bytes_of(t) // len(parts)
        sources = [(*self.source(part, f"b{bits}"), KINDS[t](bits * n)) for n, part in enumerate(parts)]

        def join(machine, registers, mask):
            values = [read(registers[slot]).astype(KINDS[t]) << shift for slot, read, shift in sources]
            put(registers, mask, np.bitwise_or.reduce(np.broadcast_arrays(*values)))

        return join

    # -- memory
    def _ld(self, i: Instruction) -> Step:
        space, t, size = _space(i), i.type, bytes_of(i.type)
        targets = _vector(i.operands[0])
        puts = [self.target(register, t, i.guard) for register in targets]
        if space == "param":
            name, offset = re.fullmatch(r"\[(\w+)(?:\+(\d+))?\]", i.operands[1]).groups()

            def parameter(machine, registers, mask):
                data = machine.launch.parameters[name]
                for n, put in enumerate(puts):
                    put(registers, mask, np.frombuffer(data, KINDS[t], 1, int(offset or 0) + n * size))

            return parameter
        address, test = self.address(i.operands[1], space), self.guard(i.guard)

        def step(machine, registers, mask):
            lanes = machine.lanes(mask, test and test(registers))
            values = machine.read(space, address(registers), size, len(puts), lanes, i.line)
            for put, value in zip(puts, values, strict=True):
                put(registers, mask, value.view(KINDS[t]))

        return step

    def _st(self, i: Instruction) -> Step:
        space, raw = _space(i), f"b{8 * bytes_of(i.type)}"
        values = [self.source(x, raw) for x in _vector(i.operands[1])]
        address, test = self.address(i.operands[0], space), self.guard(i.guard)

        def step(machine, registers, mask):
            lanes = machine.lanes(mask, test and test(registers))
            given = [read(registers[slot]) for slot, read in values]
            machine.write(space, address(registers), given, lanes, i.line)

        return step

    def _atom(self, i: Instruction) -> Step:
        space, (op, t) = _space(i), i.modifiers[-2:]
        if t[0] == "f" or op not in ("add", "min", "max", "and", "or", "xor", "exch", "cas"):
            raise Unsupported(f"the atomic operation {op}.{t}")
        target, *operands = i.operands if i.op == "atom" else ("_", *i.operands)
        put, test = self.target(target, t, i.guard), self.guard(i.guard)
        address = self.address(operands[0], space)
        values = [self.source(x, t) for x in operands[1:]]

        def step(machine, registers, mask):
            lanes = machine.lanes(mask, test and test(registers))
            given = [read(registers[slot]) for slot, read in values]
            put(registers, mask, machine.atomic(space, op, address(registers), given, lanes, i.line))

        return step

    _red = _atom

    # -- warps
    def _whole(self, i: Instruction, *modifiers: str) -> None:
        """An instruction of all lanes of a warp."""
        known(i.modifiers, *modifiers)
        if i.guard:
            raise Unsupported("a guard on an instruction of the whole warp")

    def _shfl(self, i: Instruction) -> Step:
        self._whole(i, "sync", "idx", "bfly", "up", "b32")
        mode = i.modifiers[1]
        targets = i.operands[0].split("|")
        puts = [self.target(x, t, None) for x, t in zip(targets, ("b32", "pred"), strict=False)]
        sources = [self.source(x, "u32") for x in i.operands[1:]]

        def step(machine, registers, mask):
            given = [read(registers[slot]) for slot, read in sources]
            for put, value in zip(puts, machine.shuffle(mode, *given, mask), strict=False):
                put(registers, mask, value)

        return step

    def _redux(self, i: Instruction) -> Step:
        self._whole(i, "sync", "add", "min", "max", "s32", "u32")
        return self._collective(i, i.type, i.type, lambda machine, x: machine.reduce(i.modifiers[1], x))

    def _vote(self, i: Instruction) -> Step:
        self._whole(i, "sync", "ballot", "b32")
        return self._collective(i, "pred", "b32", lambda machine, p: machine.ballot(p))

    def _collective(self, i: Instruction, source: str, t: str, function: Callable) -> Step:
        put, (slot, read) = self.target(i.operands[0], t, None), self.source(i.operands[1], source)
        members = self.source(i.operands[-1], "u32")[0]

        def step(machine, registers, mask):
            machine.whole_warps(mask, registers[members])
            put(registers, mask, function(machine, read(registers[slot])))

        return step

    def _ldmatrix(self, i: Instruction) -> Step:
        self._whole(i, "sync", "aligned", "m8n8", "x1", "x2", "x4", "shared", "b16")
        puts = [self.target(x, "b32", None) for x in _vector(i.operands[0])]
        address = self.address(i.operands[1], "shared")

        def step(machine, registers, mask):
            values = machine.load_matrices(address(registers), len(puts), mask, i.line)
            for put, value in zip(puts, values, strict=True):
                put(registers, mask, value)

        return step

    def _stmatrix(self, i: Instruction) -> Step:
        self._whole(i, "sync", "aligned", "m8n8", "x1", "x2", "x4", "shared", "b16")
        values = [self.source(x, "b32") for x in _vector(i.operands[1])]
        address = self.address(i.operands[0], "shared")

        def step(machine, registers, mask):
            given = [read(registers[slot]) for slot, read in values]
            machine.store_matrices(address(registers), given, mask, i.line)

        return step

    def _bar(self, i: Instruction) -> Step:
        if i.modifiers == ("warp", "sync"):
            members = self.source(i.operands[0], "u32")[0]
            # Lanes run in lockstep: of the barrier of a warp only its lanes are checked.
            return lambda machine, registers, mask: machine.whole_warps(mask, registers[members])
        if i.modifiers != ("sync",) or i.operands != ("0",) or i.guard:
            raise Unsupported("a barrier other than bar.sync 0 and bar.warp.sync")
        return lambda machine, registers, mask: machine.barrier(mask)


def _vector(operand: str) -> list[str]:
    return [x.strip() for x in operand.strip("{} ").split(",")]


def _space(i: Instruction) -> str:
    """`global`, `shared` or `param`; an atomic operation may name its scope and memory order."""
    how, atomic = i.modifiers[: -1 if i.op in ("ld", "st") else -2], ("gpu", "sys", "acq_rel", "relaxed")
    known(how, "global", "shared", *(("param", "v2", "v4") if i.op in ("ld", "st") else atomic))
    spaces = [x for x in how if x in ("global", "shared", "param")]
    if len(spaces) != 1:
        raise Unsupported("this address space")
    return spaces[0]
