"""The benchmarks run dry, their gate stops what is wrong, and the bars are judged as they are written."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import depthloss as dl
from bench import bars, clocks, harness, readme
from bench.speed import copies, memory
from depthloss.benchmark import rivals
from depthloss.dispatch import backend_status
from depthloss.files import to_json
from depthloss.reference import gradient_term

from . import cases

ROOT = Path(__file__).parents[1]


def run(module: str, *options: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COMMIT": "0" * 40, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", module, "--dry-run", *map(str, options)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def speed(tmp_path_factory):
    """What a dry run of the benchmark writes."""
    if reason := backend_status("triton"):
        pytest.skip(f"backend 'triton' is not available: {reason}")
    out = tmp_path_factory.mktemp("speed") / "speed.json"
    done = run("bench.speed.run", "--losses", "silog", "--out", out)  # cheap in the interpreter
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text(encoding="utf-8"))


ORIGIN = {"commit", "date", "versions", "command", "dry_run", "machine", "seconds", "red", "left_out"}


def test_the_benchmark_says_where_and_what_it_ran(speed):
    assert speed.keys() == ORIGIN | {"device", "backends", "instruction_sets", "bars", "rows"}
    assert speed["commit"] == "0" * 40 and speed["dry_run"] and speed["backends"] == ["triton"]
    assert speed["versions"]["torch"] == torch.__version__ and speed["versions"]["triton"]
    assert speed["command"] == ["-m", "bench.speed.run", "--dry-run", "--losses", "silog"]
    assert speed["machine"]["cpu_name"] and speed["machine"]["cache_bytes"] > 0
    assert speed["red"] == speed["left_out"] == speed["bars"] == []  # The bars are those of real sizes.


def test_the_benchmark_measures_every_competitor(speed):
    rows = {row["variant"]: row for row in speed["rows"]}
    ours = {"eager", "eager slicing", "compile", "compile slicing", "triton"}
    assert rows.keys() == ours | {"copy"}
    for name, row in rows.items():
        assert (row["loss"], row["dtype"], row["density"]) == ("silog", "float32", 1.0)
        phases = {"forward+backward"} if name == "copy" else set(harness.PHASES)
        assert row["ms"].keys() == phases
        for phase in phases:
            wall = row["ms"][phase]["wall"]
            assert 0 < wall["p20"] <= wall["median"] <= wall["p80"] and wall["samples"] == 1
    for name in ours:
        assert rows[name]["errors"]["loss"] < 1e-5 and rows[name]["errors"]["gradient"] < 2e-3
        assert rows[name]["saved_bytes_per_pixel"] > 0 and rows[name]["torch_peak_bytes_per_pixel"] > 4
        assert rows[name]["launches"] is rows[name]["host_syncs"] is None  # Those of a GPU.
        assert rows[name]["instruction_set"] is rows[name]["peak_bytes_per_pixel"] is None  # Those of `cpu`.
    assert rows["triton"]["saved_bytes_per_pixel"] < 4 < rows["eager slicing"]["saved_bytes_per_pixel"]
    assert rows["copy"]["bytes_per_pixel"] == 13 and rows["copy"]["gigabytes_per_second"] > 0


def test_the_budget_leaves_out_and_says_so(tmp_path):
    out = tmp_path / "speed.json"
    done = run("bench.speed.run", "--budget", 0, "--losses", "ssi", "l1", "--out", out)
    assert done.returncode == 1, done.stdout + done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert not result["rows"]
    found = {(item["loss"], item["variant"], item["reason"]) for item in result["left_out"]}
    assert found == {("ssi", "all", "budget"), ("l1", "all", "budget")}


@pytest.mark.full
def test_the_sweep_proposes_a_row(tmp_path):
    out = tmp_path / "tune.json"
    done = run("bench.gpu.tune", "--groups", "finish", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result.keys() == ORIGIN | {"proposals", "measured"} and result["red"] == []
    first, second = result["measured"][:2]
    assert (first["parameters"]["finish_warps"], second["parameters"]["finish_warps"]) == (8, 4)
    for item in (first, second):
        assert item["ms"].keys() == {"moments", "pyramid", "sobel", "finish"}
        assert all(kernel["median"] > 0 for kernel in item["ms"].values())
    (proposal,) = result["proposals"]
    assert proposal["row"] in done.stdout and proposal["present"]["finish_warps"] == 8


@pytest.fixture
def bench(monkeypatch):
    """A run in this process, of the reference's own forms on a CPU: quick."""
    module = importlib.import_module("bench.speed.run")
    arguments = ["--device", "cpu", "--losses", "ssi", "--shapes", "1,1,16,24", "--repeats", "2"]
    arguments += ["--densities", "0.5", "--threads", "2", "--compile", "never"]
    monkeypatch.setattr(sys, "argv", ["speed.py", *arguments])
    monkeypatch.setattr(harness, "cache_bytes", lambda device: 2**12)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(memory.Process, "resident_peak_bytes", lambda process: 5 * math.prod(process.shape))
    bench = module.Bench(module.parse("speed"))
    bench.options.backends = []
    return bench


def test_what_is_red_is_not_timed(bench, monkeypatch):
    right = rivals.RIVALS["ssi"]()
    monkeypatch.setitem(rivals.RIVALS, "ssi", lambda: lambda p, g, m: 1.001 * right(p, g, m))
    result = bench.run(None)
    assert [item["variant"] for item in result["red"]] == ["eager"]
    assert result["red"][0]["errors"]["loss"] == pytest.approx(1e-3, rel=1e-2)
    assert {row["variant"] for row in result["rows"]} == {"eager slicing", "copy"}
    assert result["left_out"] == []


def test_a_red_backend_stops_its_case(bench, monkeypatch):
    build, bench.options.backends, bench.options.instruction_sets = harness.build, ["cpu"], ["avx2", "base"]
    monkeypatch.setattr(harness, "choose", lambda instruction_set: None)
    fake = lambda name, backend, device: build(name if backend != "cpu" else "l1", "reference", device)  # noqa: E731
    monkeypatch.setattr(harness, "build", fake)
    result = bench.run(None)
    assert [item["variant"] for item in result["red"]] == ["cpu avx2"] and not result["rows"]
    assert [(item["variant"], item["reason"]) for item in result["left_out"]] == [("all", "cpu avx2 is red")]


def test_each_instruction_set_is_a_variant(bench, monkeypatch):
    build, chosen, ran = harness.build, [], []
    monkeypatch.setattr(harness, "choose", chosen.append)

    def fake(name: str, backend: str, device: str) -> torch.nn.Module:
        module = build(name, "reference", device)
        if backend == "cpu":
            module.register_forward_pre_hook(lambda *_: ran.append(chosen[-1]))
        return module

    def wall_ms(subject, phase, calls, sync, wall_ms=clocks.wall_ms):
        before, own = len(ran), getattr(subject, "instruction_set", None)
        ms = wall_ms(subject, phase, calls, sync)
        assert set(ran[before:]) == ({own} if own else set())
        return ms

    monkeypatch.setattr(harness, "build", fake)
    monkeypatch.setattr(clocks, "wall_ms", wall_ms)
    bench.options.backends, bench.options.instruction_sets = ["cpu"], ["avx512", "avx2"]
    result = bench.run(None)
    rows = {row["variant"]: row.get("instruction_set") for row in result["rows"]}
    expected = {"eager": None, "eager slicing": None, "cpu avx512": "avx512", "cpu avx2": "avx2"}
    assert rows == expected | {"copy": None} and set(ran) == {"avx512", "avx2"}
    assert {row["peak_bytes_per_pixel"] for row in result["rows"] if row["variant"] != "copy"} == {5.0}
    assert result["instruction_sets"] == ["avx512", "avx2"] and result["left_out"] == []


def test_an_instruction_set_that_is_not_there_is_left_out(bench, monkeypatch):
    build, bench.options.backends, bench.options.instruction_sets = harness.build, ["cpu"], ["avx512", "base"]
    monkeypatch.setattr(harness, "build", lambda name, backend, device: build(name, "reference", device))
    monkeypatch.setattr(harness.cpu, "choose", lambda name: name != "avx512")
    result = bench.run(None)
    assert [item["variant"] for item in result["left_out"]] == ["cpu avx512"]
    assert "does not have avx512" in result["left_out"][0]["reason"]
    assert {"cpu base", "eager"} < {row["variant"] for row in result["rows"]}


def test_instruction_sets_of_this_machine(monkeypatch):
    asked = []
    monkeypatch.setattr(harness.cpu, "unavailable", lambda: None)
    monkeypatch.setattr(harness.cpu, "choose", lambda name: asked.append(name) or name == "avx2")
    assert harness.instruction_sets() == ["avx2"] and asked[-1] is None  # The best one again.
    monkeypatch.setattr(harness.cpu, "choose", lambda name: name is None)
    assert harness.instruction_sets() == ["base"]


def test_a_slow_form_drops_out_after_five_samples(bench, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("bench.speed.run.time.perf_counter", lambda: now[0])

    def wall_ms(subject, phase, calls, sync):
        slow = getattr(subject, "module", None) is rivals_form
        now[0] += 0.5 if slow else 0.05
        return 1.0

    rivals_form = rivals.build("ssi")
    monkeypatch.setattr(rivals, "build", lambda name: rivals_form)
    monkeypatch.setattr(clocks, "wall_ms", wall_ms)
    bench.options.repeats, bench.options.seconds = 30, 1.0
    samples = {
        row["variant"]: {times["wall"]["samples"] for times in row["ms"].values()}
        for row in bench.run(None)["rows"]
    }
    assert samples == {"eager": {5}, "eager slicing": {20}, "copy": {20}}


def test_one_thread_goes_without_a_compiler_unless_asked(monkeypatch):
    module = importlib.import_module("bench.speed.run")

    def plan(*arguments: str) -> tuple:
        monkeypatch.setattr(sys, "argv", ["speed.py", "--device", "cpu", *arguments])
        options = module.parse("speed")
        return options, {(job.threads, with_compile) for job, with_compile in module.schedule(options)}

    assert plan("--threads", "2", "1")[1] == {(2, True), (1, False)}
    assert plan("--threads", "2", "1", "--compile", "always")[1] == {(2, True), (1, True)}
    assert plan("--threads", "2", "1", "--compile", "never", "--budget", "9")[1] == {(2, False), (1, False)}
    options, _ = plan("--losses", "others")
    assert set(options.losses) == set(harness.fused_losses(["cpu"])) - set(bars.TIMED)
    assert plan("--losses", "bars", "ssi")[0].losses == [*bars.TIMED, "ssi"]


def test_a_compiler_left_out_is_said(bench):
    bench.options.compile = "auto"
    (job,) = (job for job, _ in bench.plan)
    bench.measure(dataclasses.replace(job, threads=1), False)
    (item,) = bench.left_out.values()
    assert item["variant"] == "torch.compile" and item["reason"].startswith("1 thread")


def test_costs_are_measured_once_for_all_densities(bench, monkeypatch):
    counted = []
    monkeypatch.setattr(memory, "saved_bytes", lambda subject: counted.append(subject) or 384)
    ((job, _),) = bench.plan
    for density in (1.0, 0.5):
        bench.measure(dataclasses.replace(job, density=density), False)
    assert len(counted) == 2 and len(bench.rows) == 6  # Both forms, and the copy's rows.
    saved = {row["saved_bytes_per_pixel"] for row in bench.rows.values() if row["variant"] != "copy"}
    assert saved == {1.0}


def test_launches_are_counted_once_per_loss_and_variant(bench, monkeypatch):
    counted = []
    monkeypatch.setattr(memory, "launches", lambda subject: counted.append(subject) or {"forward": 1})
    bench.run(None)
    bench.count_launches()
    launches = {row["variant"]: row.get("launches") for row in bench.rows.values()}
    assert launches == {"eager": {"forward": 1}, "eager slicing": {"forward": 1}, "copy": None}
    assert len(counted) == 2


def test_with_a_budget_nothing_but_the_first_case_waits_for_a_compiler(monkeypatch):
    module = importlib.import_module("bench.speed.run")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--device", "cpu", "--budget", "60"])
    plan = module.schedule(module.parse("speed"))
    compiled = [with_compile for _, with_compile in plan]
    first = compiled.index(False)
    assert {(job.loss, job.shape) for job, _ in plan[:first]} == {(loss, bars.FIRST) for loss in bars.TIMED}
    light = [job for job, with_compile in plan if not with_compile]
    assert [job for job, _ in plan[first + len(light) :]] == light  # Each again, with a compiler.
    monkeypatch.setattr(sys, "argv", ["speed.py", "--device", "cpu"])
    assert len(module.schedule(module.parse("speed"))) == first + len(light)


def test_rows_of_the_table_are_python():
    table = pytest.importorskip("depthloss.kernels.triton.table")
    tune = importlib.import_module("bench.gpu.tune")
    parameters = table.Parameters(tile=(16, 64), finish_warps=4)
    text = tune.source(90, 'float("inf")', parameters)
    assert text == '    (90, float("inf"), Parameters(tile=(16, 64), finish_warps=4)),'
    assert eval(text.strip()[:-1], {"Parameters": table.Parameters}) == (90, math.inf, parameters)


def test_the_sweep_chooses_by_all_cases_and_beyond_noise():
    tune = importlib.import_module("bench.gpu.tune")
    kernels = lambda *ms: {str(i): {"median": x} for i, x in enumerate(ms)}  # noqa: E731
    assert tune.ratio(kernels(1.0, 2.0), kernels(2.0, 4.0)) == 0.5
    assert tune.choose({"now": [1.0, 1.0], "a": [0.7, 0.9], "b": [0.9, 0.9]}, "now") == "a"
    assert tune.choose({"now": [1.0, 1.0], "a": [0.99, 0.99]}, "now") == "now"
    assert tune.choose({"now": [1.0, 1.0], "a": [0.5]}, "now") == "now"  # Not measured in both cases.
    assert tune.choose({"now": [], "a": []}, "now") == "now"


def row(variant: str, wall: float, gpu: float | None = None, **more: object) -> dict:
    times = {"wall": clocks.spread([wall])} | ({"gpu": clocks.spread([gpu])} if gpu else {})
    return {
        "loss": "g2 document",
        "shape": list(bars.FIRST),
        "dtype": "float32",
        "density": 1.0,
        "threads": None,
        "variant": variant,
        "instruction_set": None,
        "ms": {"forward+backward": times},
        "peak_bytes_per_pixel": 7.9,
        "saved_bytes_per_pixel": 2.4,
        "launches": {"forward": 4, "backward": 3},
        "host_syncs": 0,
    } | more


def verdicts(found: list[dict]) -> dict[str, tuple]:
    return {bar["what"]: (bar["value"] and round(bar["value"], 6), bar["passed"]) for bar in found}


def test_bars_of_a_gpu():
    rows = [
        row("eager", 6.0, 4.0),
        row("eager slicing", 4.0, 3.0),
        row("compile", 0.9, 0.2),
        row("compile slicing", 0.6, 0.09),
        row("triton", 0.125, 0.05),
        row("copy", 0.1, 0.01),
    ]
    found = verdicts(bars.evaluate(rows, {"gpu": "NVIDIA H200"}, "cuda", ["triton"]))
    assert found == {
        "eager / ours, wall": (32.0, True),  # The best of the eager forms counts,
        "torch.compile / ours, wall": (4.8, True),  # and of the compiled.
        "torch.compile / ours, GPU time": (1.8, False),
        "ours, GPU time in a graph, µs": (50.0, False),
        "peak extra memory, B/pixel": (7.9, True),
        "saved for backward, B/pixel": (2.4, True),
        "launches, forward": (4, True),
        "launches, backward": (3, False),
        "host synchronisations": (0, True),
    }
    # Elsewhere there is no bar in microseconds; without the compiled forms theirs are not judged.
    found = verdicts(bars.evaluate([rows[0], rows[4]], {"gpu": "NVIDIA A100"}, "cuda", ["triton"]))
    assert "ours, GPU time in a graph, µs" not in found
    assert found["torch.compile / ours, wall"] == (None, None)
    assert "not measured" in bars.describe(
        bars.evaluate([rows[4]], {"gpu": "NVIDIA A100"}, "cuda", ["triton"])[0]
    )


def test_bars_of_the_copy_and_of_other_losses():
    wide = {"shape": list(bars.WIDE)}
    rows = [row("triton", 1.0, 0.4, **wide), row("copy", 1.0, 0.1, **wide)]
    (bar,) = (b for b in bars.evaluate(rows, {}, "cuda", ["triton"]) if "copy" in b["what"])
    assert (bar["value"], bar["limit"], bar["passed"]) == (4.0, 7, True)
    assert (bar["goal"], bar["goal_reached"]) == (3, False)
    other = bars.evaluate([row("triton", 1.0, 0.4, loss="ssi")], {}, "cuda", ["triton"])
    assert {b["what"] for b in other} == {
        "saved for backward, B/pixel",
        "launches, forward",
        "launches, backward",
        "host synchronisations",
    }
    assert not bars.evaluate([row("triton", 1.0, 0.4, loss=bars.COMPOSED[0])], {}, "cuda", ["triton"])
    assert not bars.evaluate([row("triton", 1.0, 0.4, shape=[2, 1, 17, 22])], {}, "cuda", ["triton"])


CPU_MS = {"eager": 90.0, "eager slicing": 40.0, "compile": 36.5, "copy": 1.0}


def cpu_rows(shape: tuple[int, ...] = bars.FIRST, threads: int = 2, **ours: float) -> list[dict]:
    """A case on a CPU: what CPU_MS has, and ours on instruction sets."""
    more = {"shape": list(shape), "threads": threads, "launches": None, "host_syncs": None}
    rows = [row(name, ms, **more) for name, ms in CPU_MS.items()]
    return rows + [row(f"cpu {isa}", ms, instruction_set=isa, **more) for isa, ms in ours.items()]


@pytest.mark.parametrize(
    ("shape", "threads", "instruction_set", "ms", "expected"),
    [
        (bars.FIRST, 2, "avx512", 4.5, {"PyTorch": (8.111111, True), "copy": (4.5, False)}),
        (bars.FIRST, 2, "avx512", 4.7, {"PyTorch": (7.765957, False), "copy": (4.7, False)}),
        ((1, 1, 1024, 2048), 2, "avx512", 4.5, {"PyTorch": (8.111111, True), "copy": (4.5, True)}),
        (bars.WIDE, 2, "avx2", 4.9, {"copy": (4.9, True)}),
        (bars.WIDE, 2, "avx2", 5.1, {"copy": (5.1, False)}),
        (bars.FIRST, 1, "avx512", 6.4, {"copy": (6.4, True)}),
        (bars.FIRST, 1, "avx2", 6.6, {"copy": (6.6, None)}),  # Shown, not judged.
        (bars.FIRST, 2, "base", 6.6, {}),
        (bars.FIRST, 4, "avx512", 4.5, {}),
        ((2, 1, 17, 22), 2, "avx512", 4.5, None),
    ],
)
def test_bars_of_a_cpu(shape, threads, instruction_set, ms, expected):
    # What PyTorch itself can do on this CPU does not matter.
    machine = {"cpu_capability": "DEFAULT"}
    rows = cpu_rows(shape, threads, **{instruction_set: ms})
    found = verdicts(bars.evaluate(rows, machine, "cpu", ["cpu"]))
    if expected is None:
        assert not found
        return
    count = f"{threads} thread{'s' * (threads > 1)}"
    names = {"PyTorch": f"best PyTorch form / ours, {count}", "copy": f"ours / copy, {count}"}
    memory_bars = {"peak extra memory, B/pixel": (7.9, True), "saved for backward, B/pixel": (2.4, True)}
    assert found == {names[key]: value for key, value in expected.items()} | memory_bars


def test_bars_of_both_instruction_sets():
    found = bars.evaluate(cpu_rows(avx512=2.9, avx2=3.5), {}, "cpu", ["cpu"])
    ratios = {bar["backend"]: bar for bar in found if "copy" in bar["what"]}
    assert ratios.keys() == {"cpu avx512", "cpu avx2"}
    assert ratios["cpu avx512"]["goal_reached"] and ratios["cpu avx2"]["goal"] is None
    (shown,) = (b for b in bars.evaluate(cpu_rows(threads=1, avx2=7.0), {}, "cpu", ["cpu"]) if not b["limit"])
    text = bars.describe(shown)
    assert text.startswith("no bar") and " 7 " in text and "cpu avx2" in text and "1 thread" in text


def test_the_copy_moves_what_a_loss_must():
    assert (copies.bytes_per_pixel(torch.float32), copies.bytes_per_pixel(torch.bfloat16)) == (13, 7)
    maps = harness.inputs((1, 1, 16, 32), torch.float32, "cpu", 0.5, "depth")
    (copy,) = copies.forms(*maps, kernel=False)
    assert copy().numel() == 13 * 16 * 32 // 2


def test_every_fused_loss_has_a_rival():
    assert set(harness.fused_losses()) == set(rivals.RIVALS)
    assert harness.fused_losses()[:2] == list(bars.TIMED)


@pytest.mark.parametrize("name", rivals.RIVALS)
def test_rivals_compute_the_loss(name):
    domain = harness.build(name, "reference", "cpu").input_domain
    for density in (1.0, 0.3):
        maps = harness.inputs((2, 1, 37, 51), torch.float32, "cpu", density, domain)
        subject = harness.LossSubject(rivals.build(name), [maps], ours=False)
        found = harness.errors(subject.evaluate(), harness.oracle(name, *maps))
        assert found["loss"] < 1e-6 and found["gradient"] < 2e-3


@pytest.mark.parametrize("mask", ["residual", "centre", "support"])
@pytest.mark.parametrize("downsample", ["nearest", "average", "bilinear"])
@pytest.mark.parametrize("border", ["valid", "zero", "replicate"])
def test_the_rivals_gradient_term(mask, downsample, border):
    pred, gt = cases.maps(torch.float32)
    m, r = cases.mask("70%"), pred - gt
    for normalizer, combine in (("full", "sum"), ("level", "mean")):
        spec = dl.GradientSpec(
            mask=mask,
            downsample=downsample,
            border=border,
            normalizer=normalizer,
            combine=combine,
            num_scales=3,
        )
        expected = gradient_term(r[:, 0], m[:, 0], spec, 1e-6, keep=torch.ones_like(m[:, 0]))[0]
        torch.testing.assert_close(rivals.Gradient(spec, 1e-6)(r, m.float()), expected, rtol=1e-5, atol=0)


def test_the_gate_is_red_for_what_is_wrong():
    maps = harness.inputs((2, 1, 37, 51), torch.float32, "cpu", 0.3, "depth")
    loss, gradients = harness.oracle("g2 document", *maps)
    none, wrong = {"loss": 0.0, "gradient": 0.0}, gradients[0].clone()
    judge = lambda *got: harness.green(harness.errors(got, (loss, gradients)), none, torch.float32)  # noqa: E731
    assert judge(loss, gradients)
    assert not judge(loss * (1 + 1e-4), gradients)
    assert not judge(loss * torch.nan, gradients)
    wrong[:, :, 20] = 0.0  # One row of the image.
    assert not judge(loss, [wrong])
    assert not judge(loss, [gradients[0] * torch.nan])


def test_saved_and_peak_bytes():
    maps = harness.inputs((2, 1, 64, 96), torch.float32, "cpu", 1.0, "depth")

    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y, x.half(), x.half())
            return (x - y).abs().sum()

        @staticmethod
        def backward(ctx, grad):
            x, y, *_ = ctx.saved_tensors
            return (x - y).sign() * grad, None

    class Module(torch.nn.Module):
        def forward(self, pred, gt, mask):
            return Half.apply(pred, gt)

    subject = harness.LossSubject(Module(), [maps], ours=False)
    pixels = maps[0].numel()
    assert memory.saved_bytes(subject) == 4 * pixels  # The inputs themselves are not extra.
    # Two half maps and, at most at once, three float maps: the difference, its sign, the product.
    assert 4 * pixels + 8 * pixels <= memory.peak_bytes(subject) <= 4 * pixels + 13 * pixels


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is reset by Linux")
def test_resident_peak_bytes():
    case = ("g2 document", (1, 1, 256, 1024), "float32", 2)
    loss, shape, dtype, threads = case
    pixels = math.prod(shape)
    subject = harness.LossSubject(
        harness.build(loss, "reference", "cpu"), [harness.inputs(shape, torch.float32, "cpu", 1.0, "depth")]
    )
    subject.evaluate()
    resident = memory.Process(loss, "reference", shape, dtype, threads).resident_peak_bytes()
    assert resident / pixels == pytest.approx(memory.peak_bytes(subject) / pixels, abs=4)
    if harness.cpu.unavailable():
        return
    ours = memory.Process(loss, "cpu", shape, dtype, threads, "base").resident_peak_bytes()
    # The codes, the gradient, and the engine's work memory, which torch does not see.
    assert 6.5 * pixels < ours < 20 * pixels


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="unknown|KeyError"):
        memory.Process("g2 document", "reference", (1, 1, 8, 8), "float99", 1).resident_peak_bytes()


def cpu_result(rows: list[dict]) -> dict:
    """A result as speed.py writes it, of made-up rows."""
    return {
        "commit": "0123456789abcdef-dirty",
        "date": "2026-01-02T03:04:05Z",
        "versions": {"torch": "2.9", "python": "3.12"},
        "machine": {"cores": 2, "cpu_name": "A CPU"},
        "rows": [
            row | {"torch_peak_bytes_per_pixel": 50.0, "gigabytes_per_second": 20.0 * row["threads"]}
            for row in rows
        ],
    }


def test_the_table_of_speeds_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    rows = cpu_rows(avx512=4.0, avx2=5.0)
    rows += [r | {"density": 0.05, "loss": "g2 published"} for r in rows]
    for r in rows:
        r["peak_bytes_per_pixel"] = {"compile": None, "eager": 200.0}.get(r["variant"], 7.25)
    alone = [r for r in cpu_rows(threads=1, avx512=6.0) if r["variant"] != "compile"]
    harness.write_json(tmp_path / "speed_cpu.json", cpu_result(rows + alone))
    lines = readme.speed_cpu().splitlines()
    assert lines[0] == "Milliseconds of forward + backward, float32, 2 threads:"
    head, _, first, second = lines[2:6]
    assert head == (
        "| `g2` | shape | valid | eager | eager slicing | compile | **ours, AVX-512** | **ours, AVX2** "
        "| copy | AVX-512 / copy | AVX2 / copy | best PyTorch / AVX-512 |"
    )
    numbers = "90 | 40 | 36.5 | 4 | 5 | 1 | 4.0 | 5.0 | 9.1× |"
    assert first == f"| document | 4×384×640 | 100% | {numbers}"
    assert second == f"| published | 4×384×640 | 5% | {numbers}"
    (about,) = (line for line in lines if line.startswith("`copy`"))
    for part in (
        "here at 20 to 40 GB/s.",
        "ours 7.25–7.9 and 2.4;",
        "eager 7.9–200 and",
        "torch.compile¹ 50 and 2.4.",
        "¹ What torch's",
    ):
        assert part in about
    assert "2 CPU cores (A CPU), torch 2.9, Python 3.12, commit 0123456789 with changes, 2026-01-02." in about
    at = lines.index("<details><summary>1 thread</summary>")
    assert lines[at + 4].endswith("| **ours, AVX-512** | copy | AVX-512 / copy |")  # Nothing to compare with.
    assert lines[at + 6] == "| document | 4×384×640 | 100% | 90 | 40 | 6 | 1 | 6.0 |"
    assert not any("other losses" in line for line in lines)


def test_the_table_of_the_other_losses(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    harness.write_json(tmp_path / "speed_cpu.json", cpu_result(cpu_rows(avx512=4.0)))
    rows = [r | {"loss": "ssi", "density": d} for d in (1.0, 0.05) for r in cpu_rows(avx512=0.5)]
    rows += [r | {"loss": "silog"} for r in cpu_rows()]
    harness.write_json(tmp_path / "speed_cpu_losses.json", cpu_result(rows))
    text = readme.speed_cpu()
    assert "<details><summary>The other losses, 4×384×640, 2 threads</summary>\n\n| loss |" in text
    assert "\n| `ssi` | 40 | 0.5 | 80.0× | 40 | 0.5 | 80.0× |\n" in text
    assert "\n| `silog` | 40 | – | – | – | – | – |\n" in text  # Ours did not run, nor the other density.
    filled = readme.filled("x\n<!-- speed-cpu -->\nold\n<!-- /speed-cpu -->\ny")
    assert filled == f"x\n<!-- speed-cpu -->\n{text}\n<!-- /speed-cpu -->\ny"


def test_the_readme_has_the_speeds_that_were_measured():
    results = ROOT / "bench" / "results"
    place = "<!-- speed-cpu -->" in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert (results / "speed_cpu.json").exists() == place
    for file in results.glob("speed_cpu*.json"):
        result = json.loads(file.read_text(encoding="utf-8"))
        assert result["rows"] and not result["red"] and not result["dry_run"]


def test_pytest_benchmark_times_a_loss():
    options = ["--benchmark-disable", "-k", "g2-document and not cpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "bench/speed/test_losses.py", *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "SHAPE": "1,1,25,35"},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout  # Two forms, four phases.


def test_spread():
    assert clocks.spread([3.0]) == {"median": 3.0, "p20": 3.0, "p80": 3.0, "samples": 1}
    found = clocks.spread([float(i) for i in range(11)])
    assert (found["p20"], found["median"], found["p80"], found["samples"]) == (2.0, 5.0, 8.0, 11)


class _Cuda:
    """Stands for torch.cuda: what is captured runs at once, replays are counted, an event pair takes 6 ms."""

    def __init__(self, monkeypatch, asleep: bool = True) -> None:
        self.log: list[str] = []
        outer = self

        class Graph:
            def __init__(self):
                self.label = None

            def pool(self):
                return self

            def replay(self):
                outer.log.append(f"replay {self.label}")

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                outer.log.append("event")

            def synchronize(self):
                pass

            def query(self):
                return not asleep or outer.slept < 10**8

            def elapsed_time(self, end):
                return 6.0

        def graph(g, pool=None, stream=None):
            g.label = f"{'second' if pool is not None else 'first'} of {len(outer.log)}"
            return contextlib.nullcontext()

        self.slept = 0
        for name, value in {
            "CUDAGraph": Graph,
            "Event": Event,
            "graph": graph,
            "Stream": lambda: None,
            "stream": lambda s: contextlib.nullcontext(),
            "synchronize": lambda: None,
            "_sleep": lambda cycles: setattr(self, "slept", cycles),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


def subject_of_three() -> object:
    maps = [harness.inputs((1, 1, 8, 9), torch.float32, "cpu", 1.0, "depth", seed) for seed in range(3)]
    return harness.LossSubject(harness.build("g2 published", "reference", "cpu"), maps)


def test_a_graph_clock_prepares_the_backward_outside_the_clock(monkeypatch):
    fake = _Cuda(monkeypatch)
    clock = clocks.GraphClock(subject_of_three())
    assert clock.graphs.keys() == set(harness.PHASES)
    for phase in harness.PHASES:
        fake.log.clear()
        assert clock.ms(phase) == 2.0  # Three calls in one replay.
        replays = [line for line in fake.log if line.startswith("replay")]
        assert [line.split()[1] for line in replays] == (
            ["first", "second"] if phase == "backward" else ["first"]
        )
        assert fake.log[-3] == "event" and fake.log[-1] == "event"  # Only the last replay is timed.


def test_a_queue_clock_sleeps_until_the_launches_are_ahead(monkeypatch):
    fake = _Cuda(monkeypatch)
    clock = clocks.QueueClock(subject_of_three())
    assert clock.ms("forward+backward") == 2.0 and fake.slept >= 10**8
    _Cuda(monkeypatch, asleep=False)
    assert math.isnan(clocks.QueueClock(subject_of_three()).ms("no-grad"))


def test_subjects_rotate_over_their_inputs():
    subject = subject_of_three()
    seen = [subject.call("no-grad", None).item() for _ in range(6)]
    assert len(set(seen[:3])) == 3 and seen[:3] == seen[3:]
    assert harness.rotation((1, 1, 8, 9), torch.float32, "cpu") * 8 * 9 * 9 > 3 * harness.cache_bytes("cpu")


def test_results_are_written_whole(tmp_path):
    path = tmp_path / "new" / "result.json"
    harness.write_json(path, {"a": [{"µs": 1.5}, math.nan], "b": {"c": (math.inf, "x")}, "d": [], "e": 2})
    text = path.read_text(encoding="utf-8")
    assert (
        text
        == """{
 "a": [
  {"µs": 1.5},
  null
 ],
 "b": {
  "c": [null, "x"]
 },
 "d": [],
 "e": 2
}
"""
    )
    with pytest.raises(TypeError):
        harness.write_json(path, {"a": object()})
    assert path.read_text(encoding="utf-8") == text and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("path", sorted(harness.RESULTS.rglob("*.json")), ids=lambda path: path.stem)
def test_committed_results_have_a_row_per_line(path):
    text = path.read_text(encoding="utf-8")
    assert text == to_json(json.loads(text))


def test_a_result_names_its_command():
    argv = ["--out", "/tmp/x", "--quick"]
    assert harness.command("bench.speed.run", argv) == ["-m", "bench.speed.run", "--quick"]
    assert harness.slug("NVIDIA H200") == "nvidia_h200"


def test_a_page_of_counts_becomes_rows():
    """As Nsight Compute writes it; a unit of thousands, a thousand's comma, a counter that it has not."""
    from bench.gpu import profile

    wait = profile.STALLS.format("no_instruction")
    names = [
        "ID",
        "Kernel Name",
        "gpu__time_duration.sum",
        "dram__bytes_read.sum",
        wait,
        "smsp__inst_executed.sum",
    ]
    page = [
        names,
        ["", "", "nsecond", "Mbyte", "inst", "inst"],
        ["0", "moments", "4,320", "3.25", "0.5", "1,204"],
        ["1", "sobel", "5.5", "", "", "7"],
    ]
    lines = ["==PROF== Connected to process 1", *(",".join(f'"{cell}"' for cell in line) for line in page)]
    first, second = profile.rows_of(lines)
    assert (first["kernel"], first["us"], first["read_bytes"]) == ("moments", 4.32, 3.25e6)
    assert (first["waits_no_instruction"], first["instructions"], first["registers"]) == (0.5, 1204.0, None)
    assert (
        second["kernel"] == "sobel" and second["read_bytes"] is None and second["us"] == pytest.approx(5.5e-3)
    )
    with pytest.raises(ValueError, match="ncu wrote no page of counts"):
        profile.rows_of(lines[:1])


def test_the_gpu_script_is_bash():
    subprocess.run(["bash", "-n", ROOT / "bench" / "gpu" / "check.sh"], check=True)
    refused = subprocess.run(
        ["bash", ROOT / "bench" / "gpu" / "check.sh", "--unknown"], capture_output=True, text=True
    )
    assert refused.returncode == 2 and "usage" in refused.stderr
