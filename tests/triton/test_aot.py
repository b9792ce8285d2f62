"""The kernels compile without a GPU into what the committed table says; checker and model count right."""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

aot = pytest.importorskip("bench.gpu.aot", reason="these tests need Triton")
from bench.gpu import disassembly, model, occupancy  # noqa: E402
from depthloss.files import write_json  # noqa: E402

# The bars of lean machine code, in float32.
BARRED = ("g2 published", "g2 document", "scale-adaptive", "adaptive-multi-domain")
INSTRUCTIONS, WARPS = 2000, {"finish": 16}
SMALL, LARGE = (4, 384, 640), (16, 352, 1216)
FMA = {"exact": 0, "inexact": 0, "library": 0, "free": 0, "ptx": 0}


def run(module: str, *options: object, **environment: str) -> subprocess.CompletedProcess:
    own = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", f"bench.gpu.{module}", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=own | environment)


def row(kernel: str, **changes: object) -> dict:
    """A row that passes."""
    return {
        "target": "sm_90", "loss": "g2 document", "dtype": "float32", "shape": "4x384x640", "kernel": kernel,
        "programs": 960, "threads": 128, "tile": [8, 128], "levels": [0, 1], "registers": 64, "spills": 0,
        "shared": 0,
        "instructions": 800, "looped": 0, "paths": None, "per_pixel": 100.0, "fusion": False,
        "fma": dict(FMA), "bytes_per_pixel": 10.0
    } | changes  # fmt: skip


def table(*rows: dict, **changes: object) -> dict:
    facts = {
        "launches": {"forward": 4, "backward": 2},
        "saved": {"float32": 2.4},
        "peak": {"float32": {"forward": 5.0, "backward": 7.0}},
    }
    names = {"4x384x640": "4x384x640", "16x352x1216": "16x352x1216"}
    return {
        "versions": {"triton": "3.7.1"},
        "losses": {"g2 document": facts | changes},
        "classes": {"sm_80": names, "sm_90": names},
        "rows": [copy.deepcopy(r) for r in rows],
    }


def only(new: dict, old: dict | None = None, **options: bool) -> str:
    """The one thing that is wrong."""
    (text,) = aot.failures(new, old, **options)
    return text


def test_the_kernels_compile():
    """Every kernel, with small tiles: without spills, and without a fused operation that rounds."""
    done = run("aot", "--small")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(": nothing wrong\n")


@pytest.mark.full
def test_the_kernels_compile_into_what_is_committed():
    done = run("aot", "--quick", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_refuses_the_interpreter():
    done = run("aot", "--quick", TRITON_INTERPRET="1")
    assert done.returncode == 2 and "unset TRITON_INTERPRET" in done.stdout


def test_the_committed_table_is_whole():
    committed = json.loads(aot.OUT.read_text(encoding="utf-8"))
    assert aot.missing(committed) == []
    assert {r["target"] for r in committed["rows"]} == set(aot.TARGETS) == set(committed["commits"])
    assert aot.failures(committed, committed) == []
    sobel = [r for r in committed["rows"] if r["kernel"] == "sobel"]
    for r in sobel:
        # One code path and what precedes it is less than both; every tap is an exact product.
        assert r["fma"]["exact"] > 0 and r["fma"]["inexact"] == 0
        if r["looped"] == 0:
            assert max(r["paths"].values()) < r["instructions"] < sum(r["paths"].values())


def test_the_committed_kernels_are_lean():
    """No spill; few enough instructions for an instruction cache, and enough warps to hide latencies."""
    committed = json.loads(aot.OUT.read_text(encoding="utf-8"))
    wanted = [
        r for r in committed["rows"]
        if r["target"] in aot.WITHOUT_SPILLS and r["dtype"] == "float32" and r["loss"] in BARRED
    ]  # fmt: skip
    assert {(r["target"], r["loss"]) for r in wanted} == set(itertools.product(aot.WITHOUT_SPILLS, BARRED))
    assert not any(r["spills"] for r in wanted)
    too_long = {(r["kernel"], r["loss"]) for r in wanted if r["instructions"] > INSTRUCTIONS}
    assert not too_long
    warps = {
        (r["kernel"], r["loss"], r["target"]): occupancy.resident_warps(
            r["target"], r["threads"], r["registers"], r["shared"]
        )
        for r in wanted
    }
    too_few = {key[:2] for key, n in warps.items() if n < WARPS.get(key[0], 24)}
    assert not too_few


@pytest.mark.parametrize(
    "target, threads, registers, shared, warps",
    [
        ("sm_90", 128, 32, 0, 64),  # 1,024 registers of a warp: 16 warps of a scheduler
        ("sm_90", 128, 33, 0, 48),  # 1,056, rounded to 1,280: 12
        ("sm_90", 256, 90, 0, 16),  # 2,880 to 3,072: 5 of a scheduler, 20 in all, two programs of 8
        ("sm_90", 32, 90, 0, 20),
        ("sm_90", 32, 16, 0, 32),  # 32 programs
        ("sm_75", 32, 16, 0, 16),
        ("sm_90", 128, 32, 40000, 20),  # 40,000 + 1,024 to 41,088 of 233,472 bytes: 5 programs of 4
        ("sm_80", 128, 32, 40000, 16),  # of 167,936: 4
        ("sm_75", 128, 32, 30000, 8),
        ("gfx942", 256, 64, 0, None),
    ],
)
def test_resident_warps_by_hand(target, threads, registers, shared, warps):
    assert occupancy.resident_warps(target, threads, registers, shared) == warps


def test_executed_instructions_may_grow_less():
    old, new = table(row("sobel", executed_per_pixel=100.0)), table(row("sobel", executed_per_pixel=109.0))
    assert aot.failures(new, old) == []
    new = table(row("sobel", executed_per_pixel=111.0))
    expected = "111 executed instructions/pixel, 11.0% above the committed 100; `--renew` accepts it"
    assert only(new, old) == f"sobel (g2 document, sm_90, float32, 4x384x640): {expected}"
    assert aot.failures(new, old, growth=False) == []
    assert aot.failures(new, table(row("sobel", executed_per_pixel=None))) == []


def test_executed_instructions_come_from_the_emulator():
    count = {"loss": "g2 document", "kernels": {"sobel": {"per_pixel": 7.5}}}
    words = [sys.executable, "-c", f"print({json.dumps(json.dumps(count))})"]
    rows = [row("sobel"), row("sobel", dtype="float16"), row("sobel", loss="silog")]
    aot.enter_executed(rows, subprocess.Popen(words, stdout=-1, stderr=-1, text=True))
    assert [r.get("executed_per_pixel") for r in rows] == [7.5, None, None]
    broken = subprocess.Popen([sys.executable, "-c", "1 / 0"], stdout=-1, stderr=-1, text=True)
    with pytest.raises(RuntimeError, match="the emulator failed:\n(.|\n)*ZeroDivisionError"):
        aot.enter_executed([], broken)


def test_a_table_lacks_a_target():
    committed = json.loads(aot.OUT.read_text(encoding="utf-8"))
    committed["rows"] = [r for r in committed["rows"] if r["target"] != "gfx942"]
    lacks = aot.missing(committed)
    assert len(lacks) == sum(len(aot.dtypes_of("gfx942", loss)) for loss in aot.LOSSES)
    assert lacks[0] == "aot.json lacks gfx942, adaptive-multi-domain, bfloat16: run `make aot`"


def test_a_sound_table_passes():
    good = table(row("sobel"), row("finish", tile=None), row("gradient", fusion=True))
    assert aot.failures(good, good) == []


@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_90", "sm_100", "gfx942"])
def test_a_spill_fails_where_there_may_be_none(target):
    new = table(row("sobel", target=target, spills=3))
    if target in ("sm_75", "gfx942"):
        assert aot.failures(new, None) == []
    else:
        assert only(new) == f"sobel (g2 document, {target}, float32, 4x384x640): 3 spills, 64 registers"


def test_growth_fails_unless_renewed():
    old = table(row("sobel"), row("finish", tile=None, instructions=1000))
    assert aot.failures(table(row("sobel", per_pixel=104.9)), old) == []
    assert aot.failures(table(row("sobel", per_pixel=50.0)), old) == []
    more = table(row("sobel", per_pixel=106.0))
    expected = "106 instructions/pixel, 6.0% above the committed 100; `--renew` accepts it"
    assert only(more, old) == f"sobel (g2 document, sm_90, float32, 4x384x640): {expected}"
    assert aot.failures(more, old, growth=False) == []
    assert "1060 instructions, 6.0% above the committed 1000" in only(
        table(row("finish", tile=None, instructions=1060)), old
    )
    other_compiler = old | {"versions": {"triton": "3.6.0"}}
    assert aot.failures(more, other_compiler) == []


@pytest.mark.parametrize(
    "kernel, changes, expected",
    [
        ("sobel", {"fma": FMA | {"exact": 70, "ptx": 72}}, "72 fma in the PTX, but 70 in the program"),
        (
            "sobel",
            {"fma": FMA | {"inexact": 2, "ptx": 2}},
            "2 fused multiply-adds whose product is not exact",
        ),
        ("sobel", {"fma": FMA | {"free": 5}}, "5 operations are free to be fused"),
        ("sobel", {"fusion": True}, "is launched without enable_fp_fusion=False"),
        (
            "moments",
            {"fma": FMA | {"exact": 1, "ptx": 1}},
            "1 fused multiply-adds where there should be none",
        ),
        ("pyramid", {"fma": FMA | {"ptx": 4}}, "4 fma in the PTX, but 0 in the program"),
        ("finish", {"loose_divisions": 3}, "3 divisions that are not rounded to nearest"),
    ],
)
def test_a_fused_multiply_add_that_rounds_fails(kernel, changes, expected):
    assert (
        only(table(row(kernel, **changes)))
        == f"{kernel} (g2 document, sm_90, float32, 4x384x640): {expected}"
    )


def test_bytes_and_launches_are_bars():
    assert only(table(saved={"float32": 2.6})) == "g2 document float32: saves 2.6 bytes/pixel; the bar is 2.5"
    peak = {"float32": {"forward": 5.0, "backward": 8.5}}
    assert only(table(peak=peak)) == "g2 document float32: 8.5 bytes/pixel in the backward; the bar is 8"
    launches = {"forward": 5, "backward": 2}
    assert only(table(launches=launches)) == "g2 document: 5 launches forward; the bar is 4"


def test_a_kernel_that_does_not_compile_is_named():
    broken = {key: row("coarse")[key] for key in aot.ORDER} | {"error": "CompilationError: x is not defined"}
    expected = "does not compile: CompilationError: x is not defined"
    assert only(table(broken)) == f"coarse (g2 document, sm_90, float32, 4x384x640): {expected}"


def test_products_by_powers_of_two_and_signs_are_exact():
    llir = """
  %3 = select i1 %1, float -1.000000e+00, float %2, !dbg !1
  %4 = select i1 %0, float 1.000000e+00, float %3, !dbg !1
  %5 = tail call float @llvm.fma.f32(float %2, float 2.000000e+00, float %4), !dbg !1
  %6 = tail call float @llvm.fma.f32(float %4, float %5, float 0.000000e+00), !dbg !1
  %7 = call <2 x float> @llvm.fma.v2f32(<2 x float> splat (float 4.0e+00), <2 x float> %v, <2 x float> %w)
  %71 = call <2 x float> @llvm.fma.v2f32(<2 x float> %v, <2 x float> <float 4.0e+0, float 2.0e+0>, %w)
  %72 = call <2 x float> @llvm.fma.v2f32(<2 x float> %v, <2 x float> <float 4.0e+0, float 3.0e+0>, %w)
  %8 = tail call float @llvm.fma.f32(float %2, float 3.000000e+00, float %4), !dbg !1
  %9 = tail call float @llvm.fma.f32(float %2, float %5, float %4), !dbg !1
  %10 = tail call float @llvm.nvvm.fma.rn.ftz.f(float %2, float %5, float %4)
  %11 = tail call float @llvm.nvvm.fma.rn.f(float %2, float %5, float %4)
  %12 = fmul contract float %5, %6
  %13 = fmul float %5, %6
"""
    ptx = "\tfma.rn.f32 \t%r1, %r2, 0f40000000, %r3;\n\tfma.rn.f32x2 \t%rd1, %rd2, %rd3, %rd4;\n"
    found = disassembly.fused_operations(llir, ptx)
    assert found == {"exact": 6, "inexact": 4, "library": 1, "free": 1, "ptx": 3}


BARRIER = "tail call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)"


@pytest.mark.parametrize(
    "between, after, kind",
    [
        ("store float %4, ptr addrspace(3) %at", "", "exact"),
        ("", "", "inexact"),
        ("store float %2, ptr addrspace(3) %at", "", "inexact"),
        ("store float %4, ptr addrspace(3) %at\n  store float %2, ptr addrspace(3) %b", "", "inexact"),
        ("store float %4, ptr addrspace(3) %at", "store float %2, ptr addrspace(3) %at", "inexact"),
        ("store float %4, ptr addrspace(3) %at", 'tail call void asm sideeffect "st.shared"', "inexact"),
        ("store float %4, ptr addrspace(3) %at", "\n7: ; preds = %1, %2", "inexact"),
    ],
)
def test_a_sign_of_another_thread_is_a_sign(between, after, kind):
    """Through shared memory, if the sign is all that can be there."""
    llir = f"""
  %3 = select i1 %1, float -1.000000e+00, float %2
  %4 = select i1 %0, float 1.000000e+00, float %3
  {BARRIER}
  {between}
  {BARRIER}
  {after}
  %5 = load float, ptr addrspace(3) %from, align 4
  %6 = tail call float @llvm.fma.f32(float %5, float %2, float %3)
"""
    found = disassembly.fused_operations(llir, None)
    assert found == {"exact": 0, "inexact": 0, "library": 0, "free": 0, "ptx": None} | {kind: 1}


SASS = """
        /*0000*/                   S2R R0, SR_CTAID.X ;
        /*0010*/              @!P0 BRA `(.L_x_2) ;
        /*0020*/                   FADD R1, R1, R2 ;
        /*0030*/                   FADD R1, R1, R3 ;
        /*0040*/                   STG.E.U16 desc[UR4][R2.64], R1 ;
        /*0050*/               @P1 EXIT ;
        /*0060*/                   EXIT ;
.L_x_2:
        /*0070*/                   STG.E.U8 desc[UR4][R2.64], R1 ;
        /*0080*/                   BRA.U !UP0, `(.L_x_3) ;
        /*0090*/                   CALL.REL.NOINC `($slow) ;
.L_x_3:
        /*00a0*/                   EXIT ;
.L_x_4:
        /*00b0*/                   BRA `(.L_x_4);
$slow:
        /*00c0*/                   RET.REL.NODEC R2 `(kernel) ;
        /*00d0*/                   NOP ;
"""


def test_the_paths_of_a_program_are_told_apart():
    code = disassembly.instructions_of(SASS)
    assert len(code) == 14 and disassembly.code_bytes(SASS) == 0xD0 + 16
    # Reached: all but the endless loop behind the code, the subroutine and the padding.
    assert len(disassembly._reached(code)) == 11
    assert disassembly.two_paths(code) == {"level 0": 7, "coarse": 6}
    # A loop of two instructions, in the arm of level 0, nine times.
    sass = SASS.replace("        /*0020*/", ".L_x_9:\n        /*0020*/")
    code = disassembly.instructions_of(sass.replace("FADD R1, R1, R3", "@P2 BRA `(.L_x_9)"))
    assert disassembly.two_paths(code, rounds=9) == {"level 0": 7 + 8 * 2, "coarse": 6}


LOOP = """
        /*0000*/                   S2R R0, SR_CTAID.X ;
.L_x_1:
        /*0010*/               @P0 BRA `(.L_x_3) ;
.L_x_2:
        /*0020*/                   FADD R1, R1, R2 ;
        /*0030*/               @P1 BRA `(.L_x_1) ;
        /*0040*/                   EXIT ;
.L_x_3:
        /*0050*/                   FADD R1, R1, R3 ;
        /*0060*/                   BRA `(.L_x_2) ;
"""


def test_a_loop_is_not_a_jump_backwards():
    # The block behind EXIT jumps back in both; only the first has a way around.
    assert disassembly._looped(disassembly.instructions_of(LOOP)) == {1, 2, 3, 5, 6}
    straight = LOOP.replace("@P1 BRA `(.L_x_1)", "FADD R1, R1, R4")
    assert disassembly._looped(disassembly.instructions_of(straight)) == set()


def test_the_model_is_the_hand_calculation():
    rows = (
        row("moments", instructions=1000, bytes_per_pixel=9.0, tile=[8, 64], threads=128),
        row(
            "sobel", instructions=3000, paths={"level 0": 2000, "coarse": 1500}, bytes_per_pixel=15.0,
            tile=[8, 120], levels=[0, 2], threads=64, looped=500
        ),
        row("finish", instructions=990, bytes_per_pixel=0.0, tile=None, levels=None, threads=256),
        row("gradient", instructions=10, bytes_per_pixel=8.0, tile=[8, 128]),
    )  # fmt: skip
    found = model.predict(table(*rows), model.GPUS["H200"], "g2 document", "float32", SMALL)
    # 983040 pixels of 9 + 7 bytes fit into 50 MB: only the first kernel reads from HBM, at 4.8 TB/s; L2 gives
    # 5120 bytes per clock of 1.98 GHz; 132 multiprocessors issue 4 instructions per clock. Of 64 registers
    # 8 warps fit a scheduler; 4 clocks, and a latency of 673 or 273 in 1000 or 500 instructions, take less.
    issue = 132 * 4 * 1.98e3  # per µs
    moments = 4 * 48 * 10 * 4 * 1000 / issue
    sobel = 4 * (48 * 6 * 2000 + 24 * 3 * 1500) * 2 / issue
    assert moments > 983040 * 9 / 4.8e6 and sobel > 983040 * 15 / (5120 * 1.98e3)
    assert found["moments"] == {"us": pytest.approx(moments + 2), "bound": "issue"}
    assert found["sobel"] == {"us": pytest.approx(sobel + 2), "bound": "issue"}
    # One program: 2 warps for each scheduler.
    finish = 990 * 8 / (4 * 1.98e3) * (4 + 273 / 990) / 2
    assert found["finish"] == {"us": pytest.approx(finish + 2), "bound": "warps"}
    assert found["gradient"] == {"us": pytest.approx(983040 * 8 / (5120 * 1.98e3) + 2), "bound": "L2"}


def test_the_model_of_few_warps():
    h200 = model.GPUS["H200"]
    # 168 registers: 3 warps of a scheduler; 8 wait 4 clocks and 673 in 1346 instructions.
    r = row("moments", instructions=1346, registers=168)
    assert model.busy(h200, r, 10**4, cached=False) == pytest.approx(3 / 4.5)
    assert model.busy(h200, r | {"instructions": 273}, 10**4, cached=True) == pytest.approx(3 / 5)
    # Within a loop over rows, what is in the loop.
    r |= {"paths": {"level 0": 9000, "coarse": 9000}, "looped": 273}
    assert model.busy(h200, r, 10**4, cached=True) == pytest.approx(3 / 5)
    # Less than one program of 4 warps for each multiprocessor, or two of them.
    assert model.busy(h200, r, 100, cached=True) == pytest.approx(1 / 5)
    assert model.busy(h200, r, 264, cached=True) == pytest.approx(2 / 5)


def test_the_model_of_instruction_fetch():
    h200, per_clock = model.GPUS["H200"], 5120 / 132
    r = row("sobel", instructions=8192, threads=64)
    assert model.fetch(h200, r, 10**4) == pytest.approx(8192 * 16 / per_clock / 1.98e9)
    # One instruction more than the cache holds. 16 programs of 2 warps fit a multiprocessor: 2112 in all.
    r["instructions"] += 1
    once = 8193 * 16 / per_clock / 1.98e9
    assert model.fetch(h200, r, 2112) == pytest.approx(once)
    assert model.fetch(h200, r, 2113) == pytest.approx(2 * once)
    # Code that is long, of which little is executed.
    r = row("sobel", instructions=16000, threads=32, tile=[64, 640], looped=100)
    found = model.predict(table(r), h200, "g2 document", "float32", SMALL)
    assert found["sobel"]["bound"] == "warps"
    r["paths"] = {"level 0": 100, "coarse": 100}
    found = model.predict(table(r), h200, "g2 document", "float32", SMALL)
    fetched = pytest.approx(1e6 * 16000 * 16 / per_clock / 1.98e9 + 2)
    assert found["sobel"] == {"us": fetched, "bound": "fetch"}


def test_the_model_of_a_batch_beyond_the_cache_and_of_other_tiles():
    small = row("gradient", instructions=100, bytes_per_pixel=8.0, tile=[8, 128])
    large = small | {"shape": "16x352x1216", "instructions": 150, "tile": [16, 128]}
    a100 = small | {"target": "sm_80", "instructions": 120}
    found = model.predict(table(small, large, a100), model.GPUS["A100"], "g2 document", "float32", LARGE)
    assert found["gradient"] == {"us": pytest.approx(16 * 352 * 1216 * 8 / 2.039e6 + 2), "bound": "HBM"}
    (grown,) = model.rows_of(table(small, large, a100), "sm_80", "g2 document", "float32", LARGE)
    assert grown["instructions"] == 180 and grown["tile"] == [16, 128]
    half = small | {"dtype": "bfloat16", "instructions": 110, "bytes_per_pixel": 4.0}
    (other,) = model.rows_of(table(small, large, a100, half), "sm_80", "g2 document", "bfloat16", LARGE)
    assert other["instructions"] == pytest.approx(198) and other["bytes_per_pixel"] == 4.0
    assert model.programs(grown, LARGE) == (16 * 22 * 10, 16 * 22 * 10 * 4 * 180)


def test_measured_numbers_stand_beside_and_never_in_the_prediction(tmp_path):
    write_json(tmp_path / "aot.json", table(row("gradient", instructions=100, bytes_per_pixel=8.0)))
    narrow = json.loads((tmp_path / "aot.json").read_text())
    narrow["classes"]["sm_90"] = {model.text_of(s): "4x384x640" for s in model.SHAPES}
    (tmp_path / "aot.json").write_text(json.dumps(narrow))
    options = (
        "--table",
        tmp_path / "aot.json",
        "--results",
        tmp_path,
        "--gpus",
        "H200",
        "--dtypes",
        "float32",
    )
    bare = json.loads(run("model", *options, "--json").stdout)
    assert [e["measured"]["backward"] for e in bare] == [None] * len(model.SHAPES)
    printed = run("model", *options).stdout.splitlines()
    assert len(printed) == 3 + len(model.SHAPES) and printed[-1].endswith("   - - -")
    times = {"ms": {"backward": {"gpu": {"median": 0.0125}}}}
    case = {"loss": "g2 document", "shape": [4, 1, 384, 640], "dtype": "float32", "variant": "triton"}
    speed = {
        "machine": {"gpu": "NVIDIA H200"},
        "rows": [case | times | {"density": 1.0}, case | {"density": 0.05, "ms": {}}],
    }
    (tmp_path / "speed_nvidia_h200.json").write_text(json.dumps(speed))
    beside = json.loads(run("model", *options, "--json").stdout)
    assert beside[0]["measured"] == {"forward": None, "backward": 12.5, "forward+backward": None}
    assert [e["predicted"] for e in beside] == [e["predicted"] for e in bare]
    assert run("model", *options).stdout.splitlines()[3].endswith("   - 12.5 -")
