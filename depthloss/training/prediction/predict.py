"""Predicting images of any size, in batches of one size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from depthloss.training.errors import ConfigError
from depthloss.training.evaluation.evaluate import Network, inverse_depth
from depthloss.training.files import NO_ROOM
from depthloss.training.models import NetworkError, pad_to_multiple
from depthloss.training.prediction.pictures import Item, Pictures
from depthloss.training.prediction.results import Results
from depthloss.training.progress import Progress

WAITING = 4  # most batches of images that wait for others of their size


@dataclass
class Report:
    """What was done.

    Attributes:
        done: number of images whose results are written.
        faults: one line for each that could not be predicted.
        turned: number of images that were turned as their EXIF orientation says.
        reduced: number of images of 16 bits per channel, of which the network gets 8.
        clipped: by the name of the image, pixels nearer or farther than the PNG can store.
        nonfinite: likewise, pixels without a finite prediction.
    """

    done: int = 0
    faults: list[str] = field(default_factory=list)
    turned: int = 0
    reduced: int = 0
    clipped: dict[str, int] = field(default_factory=dict)
    nonfinite: dict[str, int] = field(default_factory=dict)


def predict(
    model: Network,
    pictures: Pictures,
    results: Results,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    num_workers: int = 0,
    multiple: int = 1,
    flip: bool = False,
    progress: bool = True,
) -> Report:
    """Predict images and write the results, each at the size of its image.

    Args:
        model: the network in evaluation mode, on `device`.
        pictures: the images.
        results: where and how the results are written.
        device: where the network is.
        batch_size: images at once.
        num_workers: processes that read.
        multiple: what H and W must be multiples of: images are padded at the bottom and the right, and the
            predictions cropped.
        flip: take the mean with the prediction for the mirrored image.
        progress: show how far it is.

    Raises:
        OSError: there is no room for the results.
        ConfigError: there is not enough memory.
        NetworkError: what the network returned is no depth.
    """
    report = Report()
    loader = DataLoader(pictures, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)
    shown = Progress(len(pictures), "prediction", "images", show=progress)
    with shown, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for batch in _batches(loader, batch_size, multiple):
            shown.update(len(batch))
            if batch[0].fault is not None:
                report.faults.append(batch[0].fault)
                continue
            try:
                depths = _depths(model, batch, multiple, flip, torch.device(device))
            except NetworkError:
                raise
            except ValueError as error:  # a size that the network does not take
                report.faults += [f"{item.picture.path}: {error}" for item in batch]
                continue
            names = [item.picture.name for item in batch]
            tasks = [pool.submit(results.write, *pair) for pair in zip(names, depths, strict=True)]
            for item, depth, task in zip(batch, depths, tasks, strict=True):
                try:
                    _note(report, item, depth, task.result())
                except OSError as error:
                    if error.errno in NO_ROOM:
                        raise
                    file = error.filename or results.out / item.picture.name
                    report.faults.append(
                        f"{item.picture.path}: {file} could not be written: {error.strerror}"
                    )
    return report


def _note(report: Report, item: Item, depth: np.ndarray, clipped: int) -> None:
    name = item.picture.name
    report.done += 1
    report.turned += item.turned
    report.reduced += item.reduced
    if clipped:
        report.clipped[name] = clipped
    if nonfinite := int((~np.isfinite(depth)).sum()):
        report.nonfinite[name] = nonfinite


def _batches(items: Iterable[Item], size: int, multiple: int) -> Iterator[list[Item]]:
    """Group images that are padded to the same size; one with a fault is a batch of its own."""
    waiting: dict[tuple[int, ...], list[Item]] = {}
    for item in items:
        if item.fault is not None:
            yield [item]
            continue
        key = tuple(-(-n // multiple) for n in item.rgb.shape[1:])
        waiting.setdefault(key, []).append(item)
        if len(waiting[key]) == size:
            yield waiting.pop(key)
        elif sum(map(len, waiting.values())) >= WAITING * size:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def _depths(
    model: Network, batch: list[Item], multiple: int, flip: bool, device: torch.device
) -> list[np.ndarray]:
    def stack(key: str, mode: str) -> Tensor:
        return torch.cat([pad_to_multiple(getattr(item, key)[None], multiple, mode) for item in batch])

    inputs = {"rgb": stack("rgb", "replicate")}
    if batch[0].input_depth is not None:
        inputs["input_depth"] = stack("input_depth", "zeros")
    try:
        inverse = inverse_depth(model, {key: value.to(device) for key, value in inputs.items()}, flip)
    except torch.OutOfMemoryError as error:
        height, width = inputs["rgb"].shape[2:]
        raise ConfigError(
            f"{device} has not enough memory for {len(batch)} images of {height}x{width}: use "
            "--batch-size 1, --resize or --device cpu"
        ) from error
    depths = []
    for item, one in zip(batch, inverse.split(1), strict=True):
        one = one[..., : item.rgb.shape[1], : item.rgb.shape[2]]
        if one.shape[2:] != item.size:
            one = F.interpolate(one, item.size, mode="bilinear", align_corners=False)
        depths.append(one[0, 0].reciprocal().cpu().numpy())
    return depths


def _as_it_is(item: Item) -> Item:
    return item
