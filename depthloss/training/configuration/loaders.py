"""The data loaders of a run, in the order that (seed, epoch) gives."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from depthloss.training.configuration.sections import DatasetConfig, options
from depthloss.training.data import DataError, EpochSampler, build_dataset, dataset_options
from depthloss.training.data.summary import log_summary
from depthloss.training.errors import ConfigError

log = logging.getLogger("depthloss.training")


class DepthData(L.LightningDataModule):
    """Builds the data sets and their loaders.

    Args:
        sections: `train`, `validation` and `test`; one whose `dataset` is None has no loader.
        image_shape: (H, W) of all maps.
        min_depth: smallest valid depth, in metres.
        max_depth: largest, in metres.
        augmentation: see `depthloss.training.data`.
        seed: seed of the order and of the augmentation.
        skip_bad_frames: leave out frames that cannot be read, instead of stopping.

    Raises:
        ConfigError: a data set cannot be built; its section is named.
    """

    def __init__(
        self,
        sections: Mapping[str, DatasetConfig],
        image_shape: tuple[int, int],
        min_depth: float,
        max_depth: float,
        augmentation: Any = None,
        seed: int = 0,
        skip_bad_frames: bool = False,
    ) -> None:
        super().__init__()
        self.sections = dict(sections)
        self.seed = seed
        common = {"image_shape": image_shape, "min_depth": min_depth, "max_depth": max_depth}
        common["skip_bad_frames"] = skip_bad_frames
        if augmentation is not None:
            augmentation = dataclasses.asdict(augmentation)
        self.datasets = {
            # A seed of its own, so that a rendered data set does not validate on the scenes it trains on.
            split: build_split(split, section, augmentation=augmentation, seed=seed + i, **common)
            for i, (split, section) in enumerate(self.sections.items())
            if section.dataset is not None
        }
        if "train" not in self.datasets:
            raise ConfigError(
                "datasets.train.dataset: a data set is needed, such as synthetic or rgbd-folder"
            )

    def log_summaries(self) -> None:
        """Log a line for each data set; it reads a few frames of it."""
        if rank_zero_only.rank:
            return
        for split in ("train", "validation", "test"):
            if split in self.datasets:
                log_summary(f"{split}: {self.sections[split].dataset}", self.datasets[split])
            elif split == "validation":
                log.info("validation: none")

    def check(self) -> None:
        """Read every file of every data set.

        Raises:
            DataError: some are missing or faulty; all of them are named.
        """
        faults = [
            f"datasets.{split}: {fault}"
            for split, dataset in self.datasets.items()
            for fault in dataset.check()
        ]
        if faults:
            raise DataError("\n".join(faults))

    def train_dataloader(self) -> DataLoader:
        """Return the loader of the training set; in a resumed run it resumes where the run stopped."""
        loader = self._loader("train", shuffle=True)
        loop = self.trainer.fit_loop
        # Lightning makes the first iterator before it tells the sampler its epoch.
        loader.sampler.set_epoch(loop.epoch_progress.current.processed)
        if loop.restarting:
            loader.sampler.skip(
                loop.epoch_loop.batch_progress.current.ready * self.sections["train"].batch_size
            )
        return loader

    def val_dataloader(self) -> DataLoader | list:
        """Return the loader of the validation set, or no loader."""
        return self._loader("validation") if "validation" in self.datasets else []

    def test_dataloader(self) -> DataLoader | list:
        """Return the loader of the test set, or no loader."""
        return self._loader("test") if "test" in self.datasets else []

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader:
        section, dataset = self.sections[split], self.datasets[split]
        sampler = EpochSampler(dataset, shuffle, self.seed, self.trainer.world_size, self.trainer.global_rank)
        return DataLoader(
            dataset,
            batch_size=section.batch_size,
            sampler=sampler,
            num_workers=section.num_workers,
            persistent_workers=section.num_workers > 0,
            drop_last=split == "train" and section.drop_last,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )


def real_samples(loader: DataLoader, batch_idx: int, size: int) -> int:
    """Return how many samples of an evaluation batch count: all but those that only even out the ranks.

    The sampler repeats frames until every rank has the same number, as the ranks must run in step. They come
    last.

    Args:
        loader: of this rank.
        batch_idx: number of the batch.
        size: samples in it.
    """
    sampler = loader.sampler
    if not isinstance(sampler, DistributedSampler):
        return size
    mine = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))
    return min(size, max(0, mine - batch_idx * loader.batch_size))


def build_split(split: str, section: DatasetConfig, **common: Any) -> Dataset:
    """Build the data set of a section; only `train` augments.

    Args:
        split: name of the section, for errors.
        section: the section; its `dataset` is not None.
        **common: the further arguments of `build_dataset`.

    Raises:
        ConfigError: it cannot be built.
    """
    extra = options(section, "dataset", "path", "batch_size", "num_workers", "drop_last")
    if section.path is not None:
        extra["path"] = section.path
    try:
        known = dataset_options(section.dataset)
        # None for an option without default means that it is not given: the data set reports it.
        extra = {
            key: value
            for key, value in extra.items()
            if value is not None or key not in known or known[key].default is not inspect.Parameter.empty
        }
        return build_dataset(section.dataset, train=split == "train", **common, **extra)
    except (DataError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"datasets.{split}: {error}") from error
