"""Compile a launch and describe its machine code: registers, instructions, paths through them, roundings.

Sources: LLVM's IR, PTX, AMD's assembly, and the output of cuobjdump and nvdisasm, which Triton brings.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import triton
from depthloss.kernels.triton.launch import Launch
from triton._utils import find_paths_if, get_iterable_path
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.jit import create_function_from_signature

# Kernels that take signs of differences, or sum values of which later kernels do.
WITHOUT_FUSION = ("moments", "by_largest", "select", "pyramid", "select_kept", "sobel", "finish")
ABOUT = {
    "instructions": "of the compiled kernel, each once, in a loop too; without padding and subroutines",
    "looped": "those of them in loops: over rows, or over tiles or partial sums, few rounds at bar shapes",
    "paths": "of kernels with a loop over rows: what a warp executes in a full tile of level 0, or coarser",
    "per_pixel": "instructions (of the path, if any) x threads / pixels of a program's tile",
    "issued_per_pixel": "the same x programs of all levels / pixels of the batch",
    "tile": "rows and columns that one program works on; levels: the pyramid levels first..last - 1",
    "executed_per_pixel": "PTX instructions that all warps execute x 32 / pixels of the batch in `executed`, "
    "counted by the emulator in tests/triton; null where it did not run. PTX is not machine code",
    "code_bytes": "of the machine code, padding included",
    "resident_warps": "of a multiprocessor, by registers and shared memory (occupancy.py); null on AMD",
    "compile_s": "CPU seconds from Python source to machine code; null where it was not measured",
    "spills": "instructions that load or store local memory; AMD: spilled vector registers",
    "shared": "bytes of shared memory per program",
    "loads, stores": "global memory instructions by bits per thread",
    "ffma, dfma": "fused multiply-adds in the machine code; on AMD packed ones count once",
    "fma": "in LLVM's IR, per thread: exact = by a power of two or a sign; inexact; library = in a log; "
    "free = operations that may be fused. ptx = fused multiply-adds in the PTX, null for AMD",
    "loose_divisions": "divisions of float32 in the PTX with errors up to 2 ulp; finish has none",
    "bytes_per_pixel": "of the tensors that the compiled kernel touches, each once / pixels of the batch",
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compiled(step: Launch, target: GPUTarget) -> tuple[CompiledKernel, list]:
    """The kernel that a first call on such a device compiles, and the list of its run-time arguments."""
    backend, named = make_backend(target), step.named
    bind = create_function_from_signature(step.kernel.signature, step.kernel.params, backend)
    bound, specialization, _ = bind(*step.args, **named)
    # As the JIT packs them, in every version of Triton.
    kinds, facts = zip(*specialization, strict=True)
    signature = dict(zip((x.name for x in step.kernel.params), kinds, strict=True))
    at = find_paths_if(kinds, lambda _, kind: kind == "constexpr")
    constants = {path: get_iterable_path(list(bound.values()), path) for path in at}
    facts = ["" if kind == "constexpr" else fact for kind, fact in zip(kinds, facts, strict=True)]
    at = find_paths_if(facts, lambda _, fact: isinstance(fact, str))
    attributes = {path: backend.parse_attr(get_iterable_path(facts, path)) for path in at}
    options = backend.parse_options(named)
    source = ASTSource(step.kernel, signature, constants, attributes)
    kernel = triton.compile(source, target=target, options=options.__dict__)
    return kernel, list(_leaves(tuple(signature.values()), tuple(bound.values())))


def _leaves(signature: object, value: object) -> Iterator[object]:
    """The arguments that the compiled kernel takes."""
    if isinstance(signature, tuple):
        for inner, x in zip(signature, value, strict=True):
            yield from _leaves(inner, x)
    elif signature != "constexpr":
        yield value


def touched_bytes(llir: str, arguments: list) -> int:
    """Bytes of the tensor arguments that the kernel's code uses, each tensor once."""
    head, body = re.search(
        r"^define [^\n]*kernel void @\w+\(([^\n]*)\)[^\n)]*\{\n(.*?)^\}", llir, re.M | re.S
    ).groups()
    names = re.findall(r"%(\w+)(?=,|$)", head)
    used = set(re.findall(r"%(\w+)\b", body))
    touched = {
        (x.untyped_storage()._cdata, x.storage_offset()): x.numel() * x.element_size()
        for name, x in zip(names, arguments, strict=False)
        if isinstance(x, torch.Tensor) and name in used
    }
    return sum(touched.values())


def _operands(text: str) -> list[str]:
    """LLVM operands without their types: commas inside brackets separate nothing."""
    found = re.findall(r"(?:[^,(<\[]|\([^)]*\)|<[^>]*>|\[[^]]*\])+", text)
    return [re.sub(r"^(<[^>]*>|\w+) (?=\S)", "", x.strip()) for x in found]


def _exchanged(llir: str) -> str:
    """The code without loads of what other threads stored, if that was one value: it stands for them.

    Triton changes a layout so: barrier, store to shared memory, barrier, load.
    """
    same, lines = {}, []
    unknown = (("", ""),)
    before = since = unknown  # Type and value of the stores between the last two barriers, and since.
    for line in llir.splitlines():
        if re.match(r"[\w.]+:", line):  # A block begins: it may follow several others.
            before = since = unknown
        elif "@llvm.nvvm.bar" in line:
            before, since = since, ()
        elif stored := re.match(r"\s+store (\w+) (%[\w.]+), ptr addrspace\(3\)", line):
            since += (stored.groups(),)
        elif loaded := re.match(r"\s+(%[\w.]+) = load (\w+), ptr addrspace\(3\)", line):
            if not since and len(before) == 1 and before[0][0] == loaded[2]:
                same[loaded[1]] = same.get(before[0][1], before[0][1])
                continue
        elif "addrspace(3)" in line or " call void asm " in line:
            since += unknown
        lines.append(line)
    return re.sub(r"%[\w.]+", lambda x: same.get(x[0], x[0]), "\n".join(lines))


def fused_operations(llir: str, ptx: str | None) -> dict[str, int | None]:
    """Fused multiply-adds by kind, see ABOUT; per thread, vectors by their lanes."""
    llir = _exchanged(llir)
    made = dict(re.findall(r"^\s+(%[\w.]+) = (.*?)(?:, !dbg.*)?$", llir, re.M))

    def values(x: str, depth: int = 0) -> set[str]:
        """The leaves of a tree of selections."""
        if x.startswith("<"):  # A constant vector.
            return set(re.findall(r"\w+ (\S+?)[,>]", x))
        kind, _, rest = made.get(x, "").partition(" ")
        if kind in ("select", "insertelement", "shufflevector", "extractelement") and depth < 12:
            operands = _operands(rest)
            chosen = operands[1:] if kind == "select" else operands[: 1 + (kind != "extractelement")]
            return set().union(*(values(y, depth + 1) for y in chosen)) - {"poison", "undef"}
        return {re.sub(r"^splat \(\w+ (.*)\)$", r"\1", x)}

    def one_of_two(x: str) -> tuple[float, str] | None:
        """A selection between +1 or -1 and another value, as (number, other value)."""
        kind, _, rest = made.get(x, "").partition(" ")
        if kind == "extractelement":
            return one_of_two(_operands(rest)[0])
        chosen = _operands(rest)[1:] if kind == "select" else []
        chosen = [re.sub(r"^splat \(\w+ (.*)\)$", r"\1", y) for y in chosen]
        ones = [y for y in chosen if re.fullmatch(r"-?1\.0+e\+00", y)]
        others = [y for y in chosen if y not in ones]
        return (float(ones[0]), others[0]) if len(ones) == len(others) == 1 else None

    def sign(x: str) -> bool:
        """Whether x is, in every lane, the sign of a number: 1, -1, or that number if it is 0 or NaN."""
        kind, _, rest = made.get(x, "").partition(" ")
        if kind == "insertelement":
            vector, lane = _operands(rest)[:2]
            return (vector in ("poison", "undef") or sign(vector)) and sign(lane)
        outer = one_of_two(x)
        inner = outer and one_of_two(outer[1])
        return bool(inner) and outer[0] == -inner[0]

    def exact(x: str) -> bool:
        """Whether a product by x is exact: x is 0, a power of two or a sign."""
        if sign(x):
            return True
        found = values(x)
        numbers = {float(v) for v in found if re.fullmatch(r"-?\d\.\d+e[+-]\d+", v)}
        if {1.0, -1.0} <= numbers:
            return len(found) - len(numbers) <= 1
        return len(found) == len(numbers) and all(v == 0 or math.frexp(abs(v))[0] == 0.5 for v in numbers)

    counts = {"exact": 0, "inexact": 0, "library": 0, "free": 0, "ptx": None}
    for name, kind, text in re.findall(
        r" call [^@\n]*@llvm\.(nvvm\.)?fma\.([\w.]+)\((.*)\)[^)]*$", llir, re.M
    ):
        lanes = int(kind[1 : kind.index("f")]) if kind.startswith("v") else 1
        if name:  # A library function comes in two forms, of which one is selected later.
            counts["library"] += lanes * (".ftz" not in kind)
        else:
            counts["exact" if any(map(exact, _operands(text)[:2])) else "inexact"] += lanes
    counts["free"] = len(re.findall(r" f(?:add|sub|mul) (?:\w+ )*?(?:fast|contract|reassoc) ", llir))
    if ptx is not None:
        kinds = re.findall(r"^\s*(?:@!?%p\d+\s+)?fma\.rn\.(?:ftz\.)?(\w+)", ptx, re.M)
        counts["ptx"] = sum(2 if kind.endswith("x2") else 1 for kind in kinds)
    return counts


def roundings(r: dict) -> list[str]:
    """Fused multiply-adds that round, in a kernel that must not have any."""
    fma = r["fma"]
    if r["kernel"] not in WITHOUT_FUSION:
        return []
    wrong = []
    if r["fusion"]:
        wrong.append("is launched without enable_fp_fusion=False")
    if fma["free"]:
        wrong.append(f"{fma['free']} operations are free to be fused")
    if fma["inexact"]:
        wrong.append(f"{fma['inexact']} fused multiply-adds whose product is not exact")
    if r["kernel"] == "finish" and r.get("loose_divisions"):
        wrong.append(f"{r['loose_divisions']} divisions that are not rounded to nearest")
    if r["kernel"] != "sobel" and fma["exact"]:
        wrong.append(f"{fma['exact']} fused multiply-adds where there should be none")
    expected = fma["exact"] + fma["inexact"] + fma["library"]
    if fma["ptx"] not in (None, expected):
        wrong.append(f"{fma['ptx']} fma in the PTX, but {expected} in the program")
    return wrong


def instructions_of(sass: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, operands and successors (indices) of every instruction in nvdisasm's output."""
    found, labels = [], {}
    for line in sass.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(found)
        elif code := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", line):
            found.append((code[1], code[2], code[3]))
    result = []
    for i, (condition, name, operands) in enumerate(found):
        after = (i + 1,) if i + 1 < len(found) else ()
        kind = name.split(".")[0]
        if kind in ("EXIT", "RET"):
            after = after if condition else ()
        elif kind in ("BRA", "JMP") and (to := re.search(r"`\((\.L\w+)\)", operands)):
            always = condition is None and operands == to[0]
            after = (labels[to[1]],) if always else (*after, labels[to[1]])
        result.append((name, operands, after))
    return result


def code_bytes(sass: str) -> int:
    """Bytes of the code that nvdisasm printed: of all instructions, 16 each, and of the padding."""
    return 16 + max(int(address, 16) for address in re.findall(r"^\s+/\*([0-9a-f]{4,})\*/", sass, re.M))


def _reached(code: list[tuple], cut: tuple[int, int] | None = None) -> set[int]:
    """The instructions that are reachable from the first one without the jump `cut`."""
    seen, todo = {0}, [0]
    while todo:
        i = todo.pop()
        for j in code[i][2]:
            if j not in seen and (i, j) != cut:
                seen.add(j)
                todo.append(j)
    return {i for i in seen if code[i][0] != "NOP"}


def _looped(code: list[tuple]) -> set[int]:
    """The instructions in loops: Kosaraju's strongly connected components of more than one."""
    order, seen, before = [], set(), {i: [] for i in range(len(code))}
    stack = [(0, iter(code[0][2]))]
    seen.add(0)
    while stack:
        i, following = stack[-1]
        for j in following:
            before[j].append(i)
            if j not in seen:
                seen.add(j)
                stack.append((j, iter(code[j][2])))
                break
        else:
            order.append(i)
            stack.pop()
    result, done = set(), set()
    for root in reversed(order):
        part, todo = set(), [root]
        while todo:
            i = todo.pop()
            if i not in done:
                done.add(i)
                part.add(i)
                todo += before[i]
        if len(part) > 1:
            result |= part
    return {i for i in result if code[i][0] != "NOP"}


def two_paths(code: list[tuple], rounds: int = 1) -> dict[str, int] | None:
    """Instructions that a warp executes at level 0 and at a coarser one: all without the other arm of the
    largest branch; a loop counts `rounds` times. The arm of level 0 is the one that stores 16-bit codes.
    """
    looped = _looped(code)
    count = lambda found: len(found) + (rounds - 1) * len(found & looped)  # noqa: E731
    every, best = _reached(code), (0, set(), set())
    for i in every:
        if len(set(code[i][2])) == 2:
            arms = [every - _reached(code, (i, j)) for j in code[i][2]]
            best = max(best, (min(map(len, arms)), *arms), key=lambda x: x[0])
    two_bytes = [any(re.match(r"STG.*\.U16", code[i][0]) for i in arm) for arm in best[1:]]
    if two_bytes[0] == two_bytes[1]:
        return None
    level0, coarse = best[1:] if two_bytes[0] else best[:0:-1]
    return {"level 0": count(every - coarse), "coarse": count(every - level0)}


def _widths(names: list[str], pattern: str, suffixes: tuple[tuple[str, int], ...]) -> dict[str, int]:
    """Memory instructions by bits per thread."""
    counts: dict[str, int] = {}
    for name in names:
        if re.match(pattern, name):
            bits = next(bits for suffix, bits in suffixes if re.search(suffix, name))
            counts[str(bits)] = counts.get(str(bits), 0) + 1
    return dict(sorted(counts.items(), key=lambda x: int(x[0])))


def _tool(name: str, option: str, binary: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        done = subprocess.run([TOOLS / name, option, file.name], capture_output=True, text=True, check=True)
    return done.stdout


def nvidia(kernel: CompiledKernel, rounds: int | None, branches: bool) -> dict:
    """The numbers of a kernel for NVIDIA."""
    usage = _tool("cuobjdump", "--dump-resource-usage", binary=kernel.asm["cubin"])
    sass = _tool("nvdisasm", "-c", binary=kernel.asm["cubin"])
    code = instructions_of(sass)
    paths = two_paths(code, rounds) if branches else None
    if rounds and not branches:
        looped = len(_looped(code) & _reached(code))
        paths = dict.fromkeys(("level 0", "coarse"), len(_reached(code)) + (rounds - 1) * looped)
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|SHARED|LOCAL):(\d+)", usage)}
    names = [code[i][0] for i in sorted(_reached(code))]
    count = lambda pattern: sum(bool(re.match(pattern, name)) for name in names)  # noqa: E731
    suffixes = ((r"\.128", 128), (r"\.64", 64), (r"\.[US]8", 8), (r"\.[US]16", 16), ("", 32))
    return {
        "registers": usage["REG"],
        "spills": count(r"(STL|LDL)\b") + (usage["LOCAL"] > 0),
        "shared": kernel.metadata.shared,
        "instructions": len(names),
        "code_bytes": code_bytes(sass),
        "looped": len(_looped(code)),
        "paths": paths,
        "loads": _widths(names, r"LDG\b", suffixes),
        "stores": _widths(names, r"STG\b", suffixes),
        "shared_accesses": count(r"(LDS|STS)\b"),
        "shuffles": count(r"SHFL\b"),
        "barriers": count(r"BAR\b"),
        "ffma": count(r"FFMA"),
        "dfma": count(r"DFMA"),
        "loose_divisions": kernel.asm["ptx"].count("div.full.f32"),
    }


def amd(kernel: CompiledKernel) -> dict:
    """The numbers of a kernel for AMD, from assembly and metadata."""
    text = kernel.asm["amdgcn"]
    body = re.search(rf"^{kernel.metadata.name}:(.*?)^\.Lfunc_end", text, re.M | re.S)[1]
    names = re.findall(r"^\t((?:s|v|ds|global|buffer|flat|scratch)_\w+)", body, re.M)
    names = [name for name in names if name not in ("s_nop", "s_code_end")]
    value = lambda key: int(re.search(rf"\.{key}:\s+(\d+)", text)[1])  # noqa: E731
    count = lambda pattern: sum(bool(re.match(pattern, name)) for name in names)  # noqa: E731
    suffixes = (("x4$", 128), ("x3$", 96), ("x2$", 64), ("byte|_d16_u8", 8), ("short", 16), ("", 32))
    return {
        "registers": value("vgpr_count"),
        "scalar_registers": value("sgpr_count"),
        "spills": value("vgpr_spill_count"),
        "scalar_spills": value("sgpr_spill_count"),
        "scratch": value("private_segment_fixed_size"),
        "shared": kernel.metadata.shared,
        "instructions": len(names),
        "code_bytes": int(re.search(r"; codeLenInByte = (\d+)", text)[1]),
        "looped": None,
        "paths": None,
        "loads": _widths(names, r"(global|buffer|flat)_load", suffixes),
        "stores": _widths(names, r"(global|buffer|flat)_store", suffixes),
        "shared_accesses": count("ds_(?!bpermute|permute|swizzle)"),
        "shuffles": count(r"ds_(b?permute|swizzle)|v_permlane|v_\w+_dpp"),
        "barriers": count("s_barrier"),
        "ffma": count(r"v_(pk_)?(fma|fmac|fmamk|fmaak)_f32"),
        "dfma": count(r"v_(fma|fmac)_f64"),
    }


def describe(kernel: CompiledKernel, rounds: int | None = None, branches: bool = False) -> dict:
    """The numbers of a kernel; `rounds` of its loop over rows; `branches`: programs take one of two paths."""
    return nvidia(kernel, rounds, branches) if "cubin" in kernel.asm else amd(kernel)
