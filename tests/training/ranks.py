"""What test_ddp.py runs in two processes: `torchrun --nproc-per-node 2 tests/training/ranks.py FOLDER`."""

import logging
import os
import sys
from pathlib import Path

import torch
import yaml
from torch import nn

from depthloss.training import cli
from depthloss.training.configuration import sections as config
from depthloss.training.errors import ConfigError
from depthloss.training.loop.callbacks import Pictures
from depthloss.training.loop.module import DepthModule
from depthloss.training.models import SemiSupCompletionModel
from tests.training.conftest import TINY, TinyNet
from tests.training.steps import Plain

METHODS = ("sparse-adaptive-multi-domain", "sparse-silog")


class Idle(Plain):
    """Has a parameter that gets no gradient, and says so."""

    def __init__(self, min_depth: float = 0.05, max_depth: float = 100.0, says_so: bool = True) -> None:
        super().__init__()
        self.sparse = nn.Linear(1, 1)
        self.says_so = says_so

    def parameters_without_gradient(self, num_scales=4, input_depth=True):
        return ["sparse.weight", "sparse.bias"] if self.says_so and not input_depth else []


NETWORKS = {"Tiny": TinyNet, "Plain": Plain, "Idle": Idle}


def train(*arguments: str) -> cli.Run:
    path = Path(f"tiny-{os.getpid()}.yaml")
    path.write_text(yaml.safe_dump(TINY))
    return cli.run([str(path), "--trainer.devices=auto", *arguments])


def joined(method: str, world: int) -> dict:
    """The gradients of two steps of four frames, and the validation of three, in so many processes."""
    kept = []
    original = DepthModule.configure_gradient_clipping

    def keep(self, *args, **kwargs):
        kept.append({name: p.grad.clone() for name, p in self.named_parameters()})
        original(self, *args, **kwargs)

    DepthModule.configure_gradient_clipping = keep
    try:
        run = train(
            f"--name=joined-{method}-{world}",
            f"--supervised-method={method}",
            "--model.depth_net.name=Plain",
            "--model.loss.process_group=true",
            "--model.loss.flip_lr_prob=0",
            "--trainer.precision=64-true",
            "--datasets.train.length=8",
            f"--datasets.train.batch_size={4 // world}",
            "--max-epochs=1",
        )
    finally:
        DepthModule.configure_gradient_clipping = original
    metrics = {k: float(v) for k, v in run.trainer.callback_metrics.items() if k.startswith("val/")}
    return {"gradients": kept, "metrics": metrics, "weights": run.module.state_dict()}


def bad_frame() -> dict:
    """The loss of a frame of one rank is infinite, with a finite gradient: what all of them make of it."""
    original = SemiSupCompletionModel.forward

    def spoil(self, batch, *args, **kwargs):
        output = original(self, batch, *args, **kwargs)
        if self.training and 3 in batch["index"]:
            output["loss"] = output["loss"] + torch.inf
        return output

    SemiSupCompletionModel.forward = spoil
    try:
        length = ("--datasets.train.length=8", "--datasets.train.batch_size=1")
        run = train("--name=bad", "--max-epochs=1", *length)
    finally:
        SemiSupCompletionModel.forward = original
    return {"skipped": run.module.guard.skipped, "weights": run.module.state_dict()}


def resumed() -> list[dict]:
    """Two epochs at once, and one after the other."""
    arguments = ["--datasets.train.length=8", "--ema.decay=0.9", "--trainer.precision=bf16-mixed"]
    train("--name=whole", *arguments, "--max-epochs=2", "--model.scheduler.name=none")
    train("--name=part", *arguments, "--max-epochs=1", "--model.scheduler.name=none")
    train("--name=part", *arguments, "--max-epochs=2", "--model.scheduler.name=none", "--resume")
    states = [torch.load(f"runs/{n}/checkpoints/last.ckpt", weights_only=True) for n in ("whole", "part")]
    keys = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
    return [{key: state[key] for key in keys} for state in states]


def idle() -> dict:
    """Parameters without a gradient: found, and where the network does not tell, named."""
    settings = ["--model.depth_net.name=Idle", "--max-epochs=1"]
    run = train("--name=idle", *settings)
    steps = run.trainer.global_step
    try:
        train("--name=silent", *settings, "--model.depth_net.says_so=false")
    except ConfigError as error:
        return {"steps": steps, "error": str(error)}
    return {"steps": steps, "error": None}


def main(folder: str) -> None:
    os.chdir(folder)
    config.NETWORKS |= NETWORKS
    Pictures._draw = lambda self, trainer: None
    logging.getLogger("depthloss").setLevel(logging.INFO)
    logging.basicConfig(format=f"rank {os.environ['RANK']}: %(message)s")
    torch.set_num_threads(1)
    found = {
        "joined": {method: joined(method, 2) for method in METHODS},
        "bad": bad_frame(),
        "resumed": resumed(),
        "idle": idle(),
    }
    torch.save(found, f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
