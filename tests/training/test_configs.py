"""Every configuration that the project ships prints itself and trains on data in its layout."""

import inspect
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from depthloss.training import cli
from depthloss.training.ablation.evaluation import make_protocol
from depthloss.training.ablation.study import read_study
from depthloss.training.ablation.trials import check_trials
from depthloss.training.checkpoints.resume import flat
from depthloss.training.configuration import sections as config
from depthloss.training.configuration.parser import parse
from depthloss.training.data import DataError, write_depth_png, write_rgb
from depthloss.training.errors import ConfigError
from depthloss.training.loop.callbacks import Pictures
from depthloss.training.models import ResNetSAN01

from . import layouts

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
STUDIES = sorted((ROOT / "configs" / "ablation").glob("*.yaml"))
NAMES = {
    *("train_resnet_san_kitti", "train_resnet_san_kitti_scale_adaptive", "train_scale_adaptive", "g2"),
    *("train_resnet_san_ncdb_adaptive_loss", "synthetic", "kitti_overfit"),
}


class Thin(nn.Module):
    """A few weights with the arguments and outputs of ResNetSAN01."""

    def __init__(
        self,
        version: str = "18",
        min_depth: float = 0.05,
        max_depth: float = 100.0,
        depth_head: str = "log",
        margin: float = 0.01,
        sparse_branch: bool = True,
        use_film: bool = True,
        film_scales: tuple[int, ...] = (0,),
        residual: str = "standard",
        activation: str = "relu",
        dropout: float = 0.0,
        weights: str | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.low, self.high = 1 / max_depth, 1 / min_depth
        self.image = nn.Conv2d(3, 1, 3, 1, 1)
        self.sparse = nn.Conv2d(1, 1, 3, 1, 1) if sparse_branch else None

    def maps(self, features):
        scales = 4 if self.training else 1
        return [
            self.low + (self.high - self.low) * torch.sigmoid(nn.functional.avg_pool2d(features, 2**s) - 3)
            for s in range(scales)
        ]

    def forward(self, rgb, input_depth=None):
        features = self.image(rgb)
        if input_depth is None:
            return {"inv_depths": self.maps(features)}
        both = features + self.sparse(input_depth / 100)
        if not self.training:
            return {"inv_depths": self.maps(both)}
        depth_loss = (both.detach() - features).square().mean()
        return {
            "inv_depths": self.maps(features),
            "inv_depths_rgbd": self.maps(both),
            "depth_loss": depth_loss,
        }


@pytest.fixture
def here(tmp_path, monkeypatch, one_thread):
    """A working directory without data, and a thin network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(config.NETWORKS, "ResNetSAN01", Thin)
    monkeypatch.setattr(Pictures, "_write", lambda *_: None)  # most of the time
    return tmp_path


def kitti(root):
    layouts.kitti(root / "data/KITTI_raw", frames=2, shape=(375, 1242))
    for split in ("eigen_zhou_files", "eigen_test_files"):
        target = root / "data/KITTI_raw/data_splits" / f"{split}.txt"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(root / "data/KITTI_raw/split.txt", target)


def rgbd(root, *folders):
    rng = layouts.np.random.default_rng(0)
    for folder in folders:
        for i in range(2):
            write_rgb(root / folder / f"rgb/{i}.png", layouts.picture(rng, (32, 64)))
            write_depth_png(root / folder / f"depth/{i}.png", layouts.depth_map(rng, (32, 64)))


# What lies where the configuration looks for it by default.
DATA = {
    "train_resnet_san_kitti": kitti,
    "train_resnet_san_kitti_scale_adaptive": kitti,
    "train_resnet_san_ncdb_adaptive_loss": lambda root: layouts.ncdb(root / "data/ncdb"),
    "train_scale_adaptive": lambda root: rgbd(root, "data/rgbd/train", "data/rgbd/val"),
    "g2": lambda root: [
        layouts.nyu(root / "data/nyudepthv2" / part, frames=2, shape=(480, 640)) for part in ("train", "val")
    ],
    "synthetic": lambda root: None,
    "kitti_overfit": lambda root: rgbd(root, "data"),
}
SMALL = "--gpus cpu --datasets.image_shape [32,64] --trainer.limit_train_batches 2"
SMALL += (
    " --datasets.train.batch_size 1 --datasets.validation.batch_size 1 --trainer.enable_progress_bar false"
)
SMALL += " --datasets.train.num_workers 0 --datasets.validation.num_workers 0 --tensorboard.log_frequency 1"
SMALL = SMALL.split()


def test_they_are_all_there():
    assert {file.stem for file in CONFIGS} == NAMES == DATA.keys()
    assert {file.stem for file in STUDIES} == {"terms", "questions"}


@pytest.mark.parametrize("file", [*CONFIGS, *STUDIES], ids=lambda file: file.stem)
def test_each_begins_with_what_it_is_and_how_to_run_it(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = "\n".join(line for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])
    module = "-m depthloss.training.ablate" if file in STUDIES else "train.py"
    assert f"python {module}" in comment
    if file not in STUDIES:
        assert yaml.safe_load(file.read_text(encoding="utf-8"))["name"] == file.stem


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_print_config_shows_all_of_it_and_can_be_read_again(file, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        cli.run([str(file), "--print_config"])
    assert end.value.code in (0, None)
    printed = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(printed, encoding="utf-8")
    before, again = (
        flat(yaml.safe_load(parse(path, [])[1])) for path in (str(file), str(tmp_path / "again.yaml"))
    )
    assert again == before
    given = flat(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert {key: before[key] for key in given} == given  # nothing is dropped or read as something else


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_each_trains_two_steps_on_data_in_its_layout(file, here):
    DATA[file.stem](here)
    extra = "--trainer.max_epochs 1 --trainer.check_val_every_n_epoch 1".split()
    if file.stem == "kitti_overfit":
        extra += "--datasets.train.path data --datasets.validation.path data".split()
    if file.stem == "synthetic":
        extra += (
            "--datasets.train.length 4 --datasets.validation.length 2".split()
        )  # all are rendered at once
    run = cli.run([str(file), *SMALL, *extra])
    assert run.trainer.global_step == 2
    assert run.trainer.callback_metrics["train/skipped_steps"] == 0
    assert 0 < float(run.trainer.callback_metrics["val/abs_rel"]) < float("inf")
    before = Thin(sparse_branch=run.module.model.depth_net.sparse is not None)
    assert before.state_dict().keys() == run.module.model.depth_net.state_dict().keys()


def test_the_thin_network_has_the_arguments_of_the_real_one():
    real, thin = (inspect.signature(net).parameters for net in (ResNetSAN01, Thin))
    assert {k: p.default for k, p in real.items()} == {k: p.default for k, p in thin.items()}


QUICK = "--supervised-method sparse-scale-adaptive --lambda-sg 0.5 --max-epochs 5 --name quick_test".split()
KITTI = str(ROOT / "configs/train_resnet_san_kitti.yaml")


def test_the_quick_start(here):
    kitti(here)
    run = cli.run([KITTI, *QUICK, *SMALL, "--trainer.check_val_every_n_epoch", "5"])
    assert run.directory == Path("runs/quick_test")
    assert (run.trainer.current_epoch, run.trainer.global_step) == (5, 10)
    saved = flat(yaml.safe_load((run.directory / "config.yaml").read_text()))
    assert saved["model.loss.supervised_method"] == "sparse-scale-adaptive"
    assert saved["model.loss.lambda_sg"] == 0.5


def test_without_its_data_or_a_gpu_the_quick_start_says_what_to_do(here):
    with pytest.raises((ConfigError, DataError), match="data/KITTI_raw"):
        cli.run([KITTI, *QUICK, "--gpus", "cpu"])
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--gpus cpu"):
            cli.run([KITTI, *QUICK, "--gpus", "0"])


def test_lambda_sg_needs_a_loss_that_has_it(here):
    with pytest.raises(ConfigError, match="lambda_sg.*sparse-silog"):
        cli.run([KITTI, "--lambda-sg", "0.5"])


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_variant_of_a_study_can_be_built(file, tmp_path):
    study = read_study(file)
    trials = list(study.trials(tmp_path, seeds=[0]))
    assert {(t.condition, t.variant) for t in trials} == {
        (c, v) for c in study.conditions for v in study.variants_in(c)
    }
    done = check_trials(trials)
    assert set(done.values()) == {(0, 10)}
    assert make_protocol(trials[0], study.evaluation).min_depth == 0.3
    for trial in trials:
        data = trial.tree["datasets"]
        assert data["train"]["length"] * 10 / data["train"]["batch_size"] == 1000
        assert "gt" not in data["validation"]  # always dense
