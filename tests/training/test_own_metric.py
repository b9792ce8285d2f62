"""Adding a metric as CONTRIBUTING.md says: one entry in one file, and everything knows it."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from depthloss.metrics import table as metrics
from depthloss.metrics.means import DepthMetrics
from depthloss.training.ablation.study import read_study
from depthloss.training.data import build_dataset
from depthloss.training.evaluation.evaluate import evaluate
from depthloss.training.evaluation.protocol import Protocol
from depthloss.training.evaluation.report.grids import strata_grid, summary_grid
from depthloss.training.evaluation.tables import text_tables
from depthloss.training.loop.trainer import check_trainer, monitor_mode

ROOT = Path(__file__).parents[2]
WALK = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Adding a metric")[2]


@pytest.fixture
def own(monkeypatch):
    """The name of the metric, whose entry is in the table."""
    (entry,) = re.findall(r"^```python\n(.*?)^```", WALK.partition("\n## ")[0], re.M | re.S)
    ((name, metric),) = eval(compile(f"{{{entry}}}", "CONTRIBUTING.md", "eval"), vars(metrics)).items()
    monkeypatch.setitem(metrics.METRICS, name, metric)
    return name


def test_the_walk_names_one_file_of_the_package():
    named = set(re.findall(r"`([\w/]+\.py)`", WALK.partition("\n## ")[0]))
    assert {f for f in named if f.startswith("depthloss/")} == {"depthloss/metrics/table.py"}


def test_the_validation_measures_it(own):
    measured = DepthMetrics(0.5, 80.0)
    measured.update(torch.tensor([[[[2.1, 3.0, 7.0]]]]), torch.tensor([[[[2.0, 2.0, 0.0]]]]))
    assert float(measured.compute()[own]) == 0.5
    trainer = SimpleNamespace(max_epochs=1, strategy="auto", accelerator="cpu", precision="32-true")
    none = SimpleNamespace(project=None, decay=None)
    for monitor in (own, f"val/{own}"):
        checkpoint = SimpleNamespace(monitor=monitor)
        check_trainer(SimpleNamespace(trainer=trainer, checkpoint=checkpoint, wandb=none, ema=none))
        assert monitor_mode(monitor) == "max"


def test_the_evaluation_and_its_tables_have_it(own):
    data = build_dataset(
        "synthetic", image_shape=(16, 24), length=2, min_depth=0.4, max_depth=90.0, train=False
    )

    def network(batch):
        return {"inv_depths": [torch.full((len(batch["rgb"]), 1, 16, 24), 0.25)]}

    found = evaluate(network, data, Protocol(0.4, 90.0), progress=False)
    depths = [data.frame(i).depth for i in range(2)]
    expected = [np.mean(np.abs(4 - d[d > 0.4]) / d[d > 0.4] < 0.1) for d in depths]
    assert found.summary[own] == pytest.approx(np.mean(expected))
    assert sum(row["pixels"] * row[own] for row in found.ranges if row["pixels"]) == pytest.approx(
        sum(np.count_nonzero(np.abs(4 - d[d > 0.4]) / d[d > 0.4] < 0.1) for d in depths)
    )
    assert re.search(rf"^{own} +share +0\.\d+", text_tables([found]), re.M)
    assert f"{own}\u00a0↑" in summary_grid([found]) and "|p − g| / g &lt; 0.1" in summary_grid([found])
    assert own in strata_grid("range", found.ranges)


def test_a_study_may_ask_for_it(own, tmp_path):
    study = yaml.safe_load((ROOT / "configs/ablation/questions.yaml").read_text(encoding="utf-8"))
    next(iter(study["questions"].values()))["metrics"] = [own]
    (tmp_path / "questions.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    assert read_study(tmp_path / "questions.yaml").questions[0].metrics == (own,)
