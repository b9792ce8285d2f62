"""Studies: what their files say, what is trained and what is left alone, and what the comparison claims."""

import json
import math
import subprocess
import sys

import pytest
import torch
import yaml

from depthloss.training import ablate, cli
from depthloss.training.ablation import plots, tables, trials
from depthloss.training.ablation.results import Spread, Table, values
from depthloss.training.ablation.study import merged, read_study
from depthloss.training.errors import ConfigError
from depthloss.training.loop.callbacks import Pictures

from .conftest import TINY

BASE = merged(
    {k: v for k, v in TINY.items() if k != "name"},
    {"datasets.train.length": 4, "datasets.validation.length": 2, "model.loss.supervised_num_scales": 1},
)
STUDY = {
    "base": BASE,
    "seeds": [0],
    "variants": {
        "plain": {"model.loss.supervised_method": "sparse-l1"},
        "adaptive": {"model.loss.supervised_method": "sparse-adaptive-multi-domain"},
    },
}


@pytest.fixture
def study(tmp_path, monkeypatch, tiny_net, one_thread):
    """Writes a study and gives the arguments that run it; its runs are trained in this process."""
    monkeypatch.chdir(tmp_path)
    launched = []

    def launch(trial, config, resume, threads):
        launched.append((trial.name, resume))
        try:
            cli.run([str(config), *(["--resume"] if resume else [])])
        except RuntimeError as error:
            trials.log_file(trial).write_text(f"{error}\n")
            return 1
        return 0

    monkeypatch.setattr(trials, "launch", launch)
    monkeypatch.setattr(Pictures, "_write", lambda *_: None)  # most of the time, and not of a study

    def write(**changes):
        file = tmp_path / "tiny.yaml"
        file.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
        return str(file)

    write.launched = launched
    return write


@pytest.fixture
def no_pictures(monkeypatch):
    for name in ("write_metrics", "write_weights"):
        monkeypatch.setattr(plots, name, lambda *_: False)


def weights(name):
    return torch.load(f"runs/tiny/{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"]


def results():
    with open("runs/tiny/results.json", encoding="utf-8") as file:
        return json.load(file)


def test_a_killed_study_goes_on_and_ends_as_an_undisturbed_one(study, no_pictures, tiny_net, tmp_path):
    file = study()
    tiny_net.fail_at = 3  # in the second epoch of the first run
    assert ablate.run([file]) == 1
    assert study.launched == [("plain_seed0", False), ("adaptive_seed0", False)]
    found = {run["name"]: run for run in results()["runs"]}
    assert found["plain_seed0"]["error"] == "exit status 1: killed"
    assert found["plain_seed0"]["steps"] == 3 and "evaluation" not in found["plain_seed0"]
    assert found["adaptive_seed0"]["error"] is None  # the other one is trained all the same

    tiny_net.fail_at = None
    study.launched.clear()
    assert ablate.run([file]) == 0
    assert study.launched == [("plain_seed0", True)]  # the finished one is left alone
    (run,) = [run for run in results()["runs"] if run["name"] == "plain_seed0"]
    assert run["error"] is None and run["steps"] == 4
    assert run["trajectory"]["loss"]["step"] == [1, 3]  # the epoch before the kill is still there

    resumed = weights("plain_seed0")
    assert ablate.run([file, "--runs", "other", "--only", "plain", "--train-only"]) == 0
    fresh = torch.load("other/tiny/plain_seed0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(resumed[key], fresh[key]) for key in fresh)
    assert not (tmp_path / "runs/tiny/plain_seed0/checkpoints/previous.ckpt").exists()


def test_what_a_study_leaves(study):
    file = study()
    assert ablate.run([file, "--train-only", "--tensorboard.log_frequency", "1"]) == 0
    study.launched.clear()
    assert ablate.run([file, "--evaluate-only", "--out", "out"]) == 0
    assert not study.launched
    with open("out/results.json", encoding="utf-8") as text:
        found = json.load(text)
    assert found["wanted_runs"] == 2 and found["machine"]["torch"] == torch.__version__
    assert found["command"].endswith("--evaluate-only --out out")
    run = found["runs"][1]
    assert (run["variant"], run["seed"], run["steps"]) == ("adaptive", 0, 4)
    assert run["step_ms"] > run["loss_ms"] > 0
    assert len(run["trajectory"]["sigma_structure, steps"]["value"]) == 4
    assert run["trajectory"]["sigma_structure, steps"]["value"][0] == 1.0
    assert {"structure_loss", "scale_loss", "scale_adaptive/relative"} <= run["trajectory"].keys()
    assert run["evaluation"]["summary"]["images"] == 2
    kept = values(run)
    assert kept["abs_rel"] == run["evaluation"]["summary"]["abs_rel"]
    assert {"abs_rel, [3, 10) m", "abs_rel, pole", "edge_abs_rel", "step_ms"} <= kept.keys()
    text = open("out/results.md", encoding="utf-8").read()
    assert "2 of 2 runs" in text and "inconclusive" in text and "0.05 m < gt < 100 m" in text
    for picture in ("weights.png", "metrics.png"):
        assert f"({picture})" in text
        assert open(f"out/{picture}", "rb").read(4) == b"\x89PNG"


def test_what_was_evaluated_is_read_again_until_the_question_changes(study, no_pictures, monkeypatch):
    file = study()
    assert ablate.run([file, "--only", "plain"]) == 0
    before = results()["runs"][0]["evaluation"]
    with monkeypatch.context() as patch:
        patch.setattr("depthloss.training.ablation.evaluation.load_run", lambda *a, **k: 1 / 0)
        assert ablate.run([file, "--only", "plain"]) == 0
        assert results()["runs"][0]["evaluation"] == before
    # Another validation set needs no other training.
    assert ablate.run([file, "--only", "plain", "--datasets.validation.length", "3"]) == 0
    assert results()["runs"][0]["evaluation"]["summary"]["images"] == 3
    assert len(study.launched) == 1


def test_a_run_of_other_settings_is_not_taken_for_this_one(study):
    assert ablate.run([study(), "--only", "plain", "--train-only"]) == 0
    with pytest.raises(
        ConfigError, match="plain_seed0: trained with other settings: .*lr .now 0.5, was 0.01"
    ):
        ablate.run([study(), "--only", "plain", "--model.optimizer.depth.lr", "0.5"])
    assert len(study.launched) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {}}, "variants: a mapping"),
        ({"variant": {}}, r"unknown key 'variant'; did you mean 'variants'\? Known: name, base"),
        ({"baseline": "none"}, "baseline: no 'none'; known: plain, adaptive"),
        ({"seeds": "0"}, "seeds: a list of whole numbers"),
        ({"variants": {"a b": {}, "a-b": {}}}, "differ only in characters"),
        ({"variants": {"a": {"conditions": ["x"]}}}, "variants.a.conditions: no 'x'"),
        ({"questions": {"Why?": {"compare": [["plain", "x"]], "metrics": []}}}, "no 'x'; known: plain"),
        ({"questions": {"Why?": {"compare": []}}}, "the keys compare, metrics"),
        (
            {"questions": {"Why?": {"compare": [["plain", "adaptive"]], "metrics": ["abs_rell, pole"]}}},
            r"questions.'Why\?'.metrics: no 'abs_rell'; known: abs_rel,",
        ),
        ({"evaluation": {"crop": "square"}}, "evaluation: crop must be one of"),
        ({"variants": {"a": {"model.loss.lambda_sq": 1}}}, "a_seed0: .*lambda_sg"),
        ({"variants": {"a": {"model.loss.lambda_sg": -1}}}, "a_seed0: .*lambda_sg must lie"),
    ],
)
def test_a_faulty_study_is_told_before_anything_is_trained(study, changes, message):
    with pytest.raises(ConfigError, match=message):
        ablate.run([study(**changes)])
    assert not study.launched


def test_the_command_line_is_checked(study, capsys):
    assert ablate.main([study(), "--only", "plane"]) == 2
    assert "no variant plane; known: plain, adaptive" in capsys.readouterr().err
    assert ablate.main([study(), "--seed"]) == 2
    assert ablate.main(["missing.yaml"]) == 2
    assert "missing.yaml: cannot be read" in capsys.readouterr().err


def test_runs_of_one_seed_come_before_those_of_the_next(tmp_path, study):
    file = study(
        seeds=[3, 5],
        conditions={"all": {}, "few": {"datasets.train.gt": 0.05, "model.loss.lambda_sg": 0.2}},
        variants={
            "a": {"model.loss.supervised_method": "sparse-scale-adaptive"},
            "b": {"conditions": ["few"], "model.loss": {"lambda_sg": 0.7}},
        },
    )
    found = list(read_study(file).trials(tmp_path))
    assert [trial.name for trial in found[:3]] == ["all_a_seed3", "few_a_seed3", "few_b_seed3"]
    assert [trial.seed for trial in found] == [3, 3, 3, 5, 5, 5]
    assert found[2].tree["datasets"]["train"]["gt"] == 0.05
    assert [found[i].tree["model"]["loss"].get("lambda_sg") for i in range(3)] == [None, 0.2, 0.7]
    assert found[5].tree["seed"] == 5 and found[5].tree["name"] == "few_b_seed5"
    assert read_study(file).base == BASE  # nothing is shared between the runs


def test_merging_keeps_what_is_beside():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": [1]}
    assert merged(tree, {"a.c.d": 3, "a": {"f": 4}, "g.h": 5}) == {
        "a": {"b": 1, "c": {"d": 3}, "f": 4},
        "e": [1],
        "g": {"h": 5},
    }
    assert tree == {"a": {"b": 1, "c": {"d": 2}}, "e": [1]}


# ---- what the comparison claims


def test_the_rule_for_inconclusive():
    # Student's t for 2 degrees of freedom is 4.303, so the limit is 4.303 / sqrt(3) = 2.4843 deviations.
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    assert Spread(2.48, 1.0, 3).includes_zero and not Spread(2.49, 1.0, 3).includes_zero
    assert Spread(-2.48, 1.0, 3).includes_zero and not Spread(-2.49, 1.0, 3).includes_zero
    assert Spread(8.98, 1.0, 2).includes_zero and not Spread(8.99, 1.0, 2).includes_zero
    assert Spread.of([5.0]).includes_zero and Spread.of([]).includes_zero
    assert math.isnan(Spread.of([]).mean) and math.isnan(Spread.of([5.0]).deviation)
    assert Spread(0.0, 0.0, 3).includes_zero
    assert not Spread(0.73, 1.0, 11).includes_zero and Spread(0.67, 1.0, 11).includes_zero


def runs(**metrics):
    """Runs of two seeds per variant: variant -> metric -> values by seed."""
    return [
        {
            "condition": "", "variant": variant, "seed": seed, "name": f"{variant}_{seed}", "error": None,
            "steps": 4, "step_ms": 10.0 + seed, "trajectory": {},
            "evaluation": {
                "summary": {name: numbers[seed] for name, numbers in found.items()} | {"images": 2},
                "protocol": {"text": "as it is"},
            },
        }
        for variant, found in metrics.items() for seed in range(3)
    ]  # fmt: skip


def test_differences_are_paired_by_seed(study, tmp_path):
    file = study(
        variants={name: {} for name in ("base", "same", "good")},
        questions={"Which?": {"compare": [["good", "same"]], "metrics": ["abs_rel", "a1"]}},
    )
    found = runs(
        base={"abs_rel": [0.1, 0.2, 0.4], "a1": [0.5, 0.6, 0.7]},
        # Far apart from seed to seed, and always 0.05 below: the pairs show it.
        good={"abs_rel": [0.05, 0.151, 0.349], "a1": [0.61, 0.7, 0.8]},
        same={"abs_rel": [0.12, 0.19, 0.38], "a1": [0.5, 0.59, 0.72]},
    )
    table = Table(read_study(file), found)
    assert table.spread("", "base", "abs_rel").deviation == pytest.approx(0.15275, abs=1e-5)
    difference = table.difference("", "good", "base", "abs_rel")
    assert (difference.mean, difference.deviation) == pytest.approx((-0.05, 0.001))
    found.append({**found[0], "seed": 9})  # a seed that has no pair
    assert Table(table.study, found).difference("", "good", "base", "abs_rel").count == 3
    machine = {"cores": 2, "threads": 1, "platform": "P", "cpu_name": "C", "torch": "T"}
    about = {"machine": machine, "command": "c", "wanted_runs": 9, "runs": found[:-1]}
    text = tables.write(tmp_path / "s.yaml", table, about, [])
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert "−0.0500 ± 0.0010<br>**better**" in rows["good"]
    assert "+0.103 ± 0.0058<br>**better**" in rows["good"]  # more of a1 is better
    assert "<br>inconclusive" in rows["same"] and "better" not in rows["same"].replace("+0.00", "")
    assert "<br>" not in rows["base"]
    (answer,) = [line for line in text.splitlines() if "`good` − `same`" in line]
    assert "**better**" in answer
    assert "9 of 9 runs" in text and "4 steps" in text and "as it is" in text
    assert plots.write_metrics(table, tables.shown(table), tmp_path / "m.png")
    assert not plots.write_weights(found, tmp_path / "w.png") and not (tmp_path / "w.png").exists()


def test_a_run_ends_with_the_process_that_started_it(tmp_path):
    command = [sys.executable, "-m", "depthloss.training.ablation.child", str(tmp_path / "none.yaml")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes, cwd=tmp_path) as child:
        out, error = child.communicate()  # closes the pipe that a parent would hold
    assert (child.returncode, out, error) == (1, b"", b"")
