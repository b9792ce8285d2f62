"""PTX as data: a kernel's parameters, and its instructions in basic blocks."""

from __future__ import annotations

import bisect
import itertools
import re
from collections import Counter
from dataclasses import dataclass, field, replace

# Bytes of a register or parameter; a predicate is a numpy bool and has none.
WIDTHS = {"pred": 0} | {f"{kind}{8 * n}": n for n in (1, 2, 4, 8) for kind in "busf"}
REGISTER = re.compile(r"%[a-z]+\d+")
_TOKEN = re.compile(
    r"\s*(?:(?P<skip>\.(?:loc|pragma)[^\n]*)|(?P<label>[$\w]+):|(?P<brace>[{}])|(?P<text>[^;]*);)"
)
_PARAMETER = re.compile(r"\.param \.(\w+)[^,\n]*?(\w+)(?=,|\s*$)", re.M)
_GUARD = re.compile(r"@(!?)(%p\d+)\s+")


class Unsupported(NotImplementedError):
    """What the emulator does not know: it raises rather than guesses."""


@dataclass(frozen=True)
class Instruction:
    """`@!%p1 add.rn.f32 %r3, %r1, %r2;` is ("add", ("rn", "f32"), ("%r3", "%r1", "%r2"), ("%p1", True))."""

    op: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    guard: tuple[str, bool] | None
    line: int

    @property
    def type(self) -> str:
        return self.modifiers[-1] if self.modifiers else ""

    @property
    def writes(self) -> list[str]:
        """Registers that it gives a value."""
        if self.op in ("st", "stmatrix", "red", "bar", "bra", "ret"):
            return []
        return REGISTER.findall(self.operands[0])

    @property
    def reads(self) -> list[str]:
        """Registers that it needs; a guarded one keeps the old value where the guard is false."""
        sources = self.operands[1:] if self.writes else self.operands
        found = [r for operand in sources for r in REGISTER.findall(operand)]
        return found + ([self.guard[0], *self.writes] if self.guard else [])


@dataclass
class Block:
    """Instructions that run one after the other; the last one may be a branch, a barrier or a return."""

    instructions: list[Instruction] = field(default_factory=list)
    target: int | None = None  # where a branch goes

    @property
    def end(self) -> str:
        """`bra`, `ret`, `bar`, or nothing: the next block follows."""
        last = self.instructions[-1].op if self.instructions else ""
        return last if last in ("bra", "ret", "bar") else ""

    @property
    def falls_through(self) -> bool:
        return self.end in ("", "bar") or self.instructions[-1].guard is not None


class Kernel:
    """A kernel's PTX."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.lines = name, text.splitlines()
        text = re.sub(r"//[^\n]*", "", text)
        head = re.search(r"\.visible \.entry \w+\((.*?)\)", text, re.S)
        # Strings that libdevice asks `__nvvm_reflect` for stay behind, unused.
        data = re.search(r"^\s*\.(?:global|const) (?!\.align 1 \.b8 _\$_str).*", text, re.M)
        if head is None or data or ".func" in text[: head.start()]:
            raise Unsupported(f"{name}: {data.group().strip() if data else 'functions'}")
        self.parameters = {label: WIDTHS[kind] for kind, label in _PARAMETER.findall(head.group(1))}
        self.symbols = {label: 0 for label in re.findall(r"\.shared [^;\n]*?(\w+)\[", text[: head.start()])}
        self.widths: dict[str, int] = {}
        self._fresh = itertools.count()
        self._newlines = [m.start() for m in re.finditer("\n", text)]
        self.blocks = self._blocks(text, text.index("{", head.end()))

    def source(self, line: int) -> str:
        """The PTX line, counted from 1."""
        return self.lines[line - 1].strip()

    def width(self, register: str) -> int:
        """Bytes of a register, 0 of a predicate."""
        return self.widths[register.rstrip("0123456789")]

    def fault(self, line: int, text: str) -> str:
        """A message about one instruction."""
        return f"{self.name}, PTX line {line}: {text}\n    {self.source(line)}"

    def _blocks(self, text: str, start: int) -> list[Block]:
        statements = list(self._statements(text, start))
        targets = {s.split()[-1] for _, s in statements if re.match(r"(@!?%p\d+\s+)?bra\b", s)}
        blocks, labels = [Block()], {}
        for line, statement in statements:
            if statement.endswith(":"):
                if statement[:-1] in targets:
                    if blocks[-1].instructions:
                        blocks.append(Block())
                    labels[statement[:-1]] = len(blocks) - 1
                continue
            instruction = self._instruction(statement, line)
            blocks[-1].instructions.append(instruction)
            if instruction.op in ("bra", "ret", "bar"):
                blocks.append(Block())
        for block in blocks:
            if block.end == "bra":
                block.target = labels[block.instructions[-1].operands[0]]
        return blocks

    def _statements(self, text: str, start: int):
        """(line, statement or "label:") of the body; registers of a nested scope get names of their own."""
        depth, scopes, at = 0, [{}], start
        while match := _TOKEN.match(text, at):
            at = match.end()
            line = bisect.bisect(self._newlines, match.end(match.lastgroup) - 1) + 1
            if match["brace"] == "{":
                depth += 1
                scopes.append({})
            elif match["brace"]:
                depth -= 1
                scopes.pop()
                if not depth:
                    return
            elif match["label"]:
                yield line, match["label"] + ":"
            elif match["text"]:
                statement = " ".join(match["text"].split())
                if statement.startswith(".reg"):
                    self._declare(statement, scopes)
                    continue
                for scope in scopes:
                    for local, register in scope.items():
                        statement = re.sub(rf"(?<![\w%.]){local}\b", register, statement)
                yield line, statement
        raise Unsupported(f"{self.name}: the kernel does not end")

    def _declare(self, statement: str, scopes: list[dict]) -> None:
        kind, names = re.match(r"\.reg \.(\w+) (.*)", statement).groups()
        for name in names.split(", "):
            if name.startswith("%"):
                self.widths[name.split("<")[0]] = WIDTHS[kind]
            else:
                prefix = "%local" + "abcdefghi"[WIDTHS[kind]]
                self.widths[prefix] = WIDTHS[kind]
                scopes[-1][name] = f"{prefix}{next(self._fresh)}"

    def _instruction(self, statement: str, line: int) -> Instruction:
        guard = _GUARD.match(statement)
        opcode, _, rest = statement[guard.end() if guard else 0 :].partition(" ")
        # .shared means .shared::cta; Triton 3.8 writes the latter.
        name, *modifiers = opcode.replace(".shared::cta", ".shared").split(".")
        name = {"barrier": "bar", "exit": "ret"}.get(name, name)
        # Commas inside {…} and […] separate nothing.
        operands = [x.strip() for x in re.findall(r"(?:[^,{\[]|\{[^}]*\}|\[[^]]*\])+", rest)]
        return Instruction(
            name, tuple(modifiers), tuple(operands), guard and (guard[2], bool(guard[1])), line
        )


def contracted(blocks: list[Block]) -> list[Block]:
    """Products fused with the one sum of their block that uses them, as ptxas may if no rounding is named."""
    every = [i for block in blocks for i in block.instructions]
    uses, writes = (Counter(r for i in every for r in getattr(i, which)) for which in ("reads", "writes"))
    found = []
    for block in blocks:
        products, kept = {}, []
        for i in block.instructions:
            free = i.modifiers in (("f32",), ("f64",)) and not i.guard
            # Factors that are written again may have other values by then.
            if free and i.op == "mul" and uses[i.operands[0]] == 1 and all(writes[r] < 2 for r in i.reads):
                products[i.operands[0]] = i
            if free and i.op in ("add", "sub"):
                for side in (1, 2) if i.op == "add" else (1,):
                    product = products.get(i.operands[side])
                    if product:
                        factors = *product.operands[1:], i.operands[3 - side]
                        name = "fma" if i.op == "add" else "fms"
                        i = replace(i, op=name, modifiers=("rn", i.type), operands=(i.operands[0], *factors))
                        break
            kept.append(i)
        found.append(Block(kept, block.target))
    return found


def live_across(blocks: list[Block]) -> tuple[set[str], set[str]]:
    """Registers that carry a value from one block into another; those read that nobody may have written."""
    uses, defines = [], []
    for block in blocks:
        use, define = set(), set()
        for instruction in block.instructions:
            use |= set(instruction.reads) - define
            define |= set(instruction.writes)
        uses.append(use)
        defines.append(define)
    live: list[set[str]] = [set() for _ in blocks]
    changed = True
    while changed:
        changed = False
        for i in range(len(blocks) - 1, -1, -1):
            block = blocks[i]
            after = set(live[block.target]) if block.target is not None else set()
            if block.falls_through and i + 1 < len(blocks):
                after |= live[i + 1]
            before = uses[i] | (after - defines[i])
            if before != live[i]:
                live[i], changed = before, True
    return set().union(*live), live[0]
