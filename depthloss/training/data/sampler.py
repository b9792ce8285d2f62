"""Sampler that hands the epoch to the data set along with the index."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
from torch.utils.data.distributed import DistributedSampler

from depthloss.training.seeds import sample_rng


class EpochSampler(DistributedSampler):
    """Yields (epoch, index), so that augmentation can depend on the epoch in persistent workers too.

    The order depends on (seed, epoch) only: it is the same after a resume and for every number of replicas.
    Nothing is dropped; with several replicas the order is padded from its own start until it divides evenly,
    as `torch.utils.data.DistributedSampler` does. Being one, it is left in place by Lightning, which calls
    `set_epoch` before every epoch.

    Args:
        dataset: the data set, or anything that has a length.
        shuffle: draw a new permutation every epoch; otherwise 0, 1, 2, ...
        seed: seed of the permutations, >= 0.
        num_replicas: number of processes that share the data set.
        rank: index of this process.

    Raises:
        ValueError: `rank` is not in [0, num_replicas), the data set is empty or `seed` is negative.
    """

    def __init__(
        self, dataset: Sized, shuffle: bool, seed: int, num_replicas: int = 1, rank: int = 0
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("the data set is empty; check its path, names and limit")
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed!r}")
        if num_replicas < 1:
            raise ValueError(f"num_replicas must be >= 1, got {num_replicas!r}")
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)
        self._skip = 0

    def skip(self, samples: int) -> None:
        """Leave out the first `samples` of this rank in the next iteration only (resume within an epoch).

        Args:
            samples: number of samples this rank has already used; the length of the sampler is unchanged.
        """
        if not 0 <= samples <= self.num_samples:
            raise ValueError(f"samples must be in [0, {self.num_samples}], got {samples!r}")
        self._skip = samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over the (epoch, index) of this rank."""
        total = len(self.dataset)
        order = (
            sample_rng("order", self.seed, self.epoch).permutation(total)
            if self.shuffle
            else np.arange(total)
        )
        # np.resize repeats the order from its start as often as the padding needs.
        mine = np.resize(order, self.total_size)[self.rank :: self.num_replicas][self._skip :]
        self._skip = 0
        epoch = self.epoch
        return iter([(epoch, int(i)) for i in mine])
