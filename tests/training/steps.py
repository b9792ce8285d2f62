"""Steps of the module on frames of random content, without the command around it."""

import copy

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

import depthloss
from depthloss.training.loop.module import DepthModule
from depthloss.training.models import SemiSupCompletionModel


class Plain(nn.Module):
    """Two scales from a few weights; no sample sees another."""

    def __init__(self, min_depth: float = 0.05, max_depth: float = 100.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 1, 1)
        self.head = nn.Conv2d(4, 1, 3, 1, 1)

    def forward(self, rgb, input_depth=None):
        full = torch.sigmoid(self.head(self.conv(rgb).tanh()))
        return {"inv_depths": [full, nn.functional.avg_pool2d(full, 2)] if self.training else [full]}


def frames(count: int, bad: tuple[int, ...] = ()) -> list[dict]:
    """Frames of random content; those in `bad` hold a NaN pixel."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for i in range(count):
        rgb = torch.rand(3, 16, 32, generator=generator)
        if i in bad:
            rgb[0, 3, 4] = torch.nan
        depth = 1 + 9 * torch.rand(1, 16, 32, generator=generator)
        samples.append({"rgb": rgb, "depth": depth, "name": f"frame-{i}", "index": i})
    return samples


class Recorder(L.Callback):
    """Keeps the whole state before every batch and after the last."""

    def __init__(self):
        self.states, self.progress, self.logged = [], [], []

    @staticmethod
    def state(trainer, module):
        return copy.deepcopy((module.state_dict(), trainer.optimizers[0].state_dict()))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.states.append(self.state(trainer, pl_module))
        self.progress.append(pl_module.progress)

    def on_train_end(self, trainer, pl_module):
        self.states.append(self.state(trainer, pl_module))

    def rates(self) -> list[float]:
        """The learning rate of each batch."""
        return [state[1]["param_groups"][0]["lr"] for state in self.states[:-1]]


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def build(tiny_net, method="sparse-l1", module_type=DepthModule, flip=0.5, **kwargs):
    torch.manual_seed(0)
    model = SemiSupCompletionModel(tiny_net(), depthloss.SupervisedLoss(method), flip_lr_prob=flip)
    return module_type(model, **kwargs)


def fit(module, samples, batch_size=1, callbacks=(), checkpoint=None, **kwargs):
    recorder = Recorder()
    settings = {"max_epochs": 1, "gradient_clip_val": 10.0, "log_every_n_steps": 1, **kwargs}
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder, *callbacks],
        **settings,
    )
    trainer.fit(
        module,
        DataLoader(samples, batch_size=batch_size),
        ckpt_path=checkpoint,
        weights_only=True if checkpoint else None,
    )
    recorder.logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
    return recorder
