"""Evaluation of a network on a data set, frame by frame."""

from __future__ import annotations

import datetime
import logging
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import depthloss
from depthloss.metrics import (
    EDGE_METRICS,
    METRICS,
    StratifiedMetrics,
    clamped,
    edge_metrics,
    image_metrics,
    is_dense,
    pixel_vector,
    valid_pixels,
)
from depthloss.training.data import DepthDataset
from depthloss.training.data.resize import resize_depth
from depthloss.training.data.transforms import Frame, prepare, resize
from depthloss.training.drawing.figures import Sample
from depthloss.training.evaluation.protocol import Protocol, aligned, crop_mask, crop_reaches_out
from depthloss.training.evaluation.result import Evaluation, Row
from depthloss.training.evaluation.wording import badness, lead, scored
from depthloss.training.progress import Progress

log = logging.getLogger("depthloss.evaluation")

SHOWN = 12  # frames that are kept to be shown

# From a batch with "rgb" and, if there is any, "input_depth", to a dict whose "inv_depths" begins with the
# inverse depth [B, 1, H, W] in 1/m: `SemiSupCompletionModel` in evaluation.
Network = nn.Module | Callable[[dict[str, Tensor]], Mapping[str, Any]]


def evaluate(
    model: Network,
    dataset: DepthDataset,
    protocol: Protocol,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    num_workers: int = 0,
    *,
    image_shape: tuple[int, int] | None = None,
    use_input: bool = True,
    name: str = "",
    show: Sequence[int] | None = None,
    origin: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Measure a network on every frame of a data set.

    Args:
        model: the network, on `device`; it is left in the mode that it was in.
        dataset: built for evaluation (`train=False`) and for a range of depth that holds the protocol's.
        protocol: how to compare.
        device: where the network is.
        batch_size: frames that the network gets at once.
        num_workers: processes that load.
        image_shape: (H, W) of the network's input; None = that of the data set.
        use_input: whether the network gets the input depth that frames have.
        name: of the run.
        show: indices of the frames to keep for pictures; None = worst, median and best.
        origin: what is known of where the numbers come from.
        progress: show how far it is.

    Raises:
        DataError: a file of a frame is missing or faulty.
        ValueError: the data set augments, or is not one for the protocol's range of depth.
    """
    if dataset.train:
        raise ValueError("the data set augments its frames: build it with train=False")
    if dataset.min_depth > protocol.min_depth or dataset.max_depth < protocol.max_depth:
        raise ValueError(
            f"the protocol counts depth from {protocol.min_depth:g} to {protocol.max_depth:g} m; the data "
            f"set has it from {dataset.min_depth:g} to {dataset.max_depth:g} m only"
        )
    device = torch.device(device)
    frames = _Frames(dataset, tuple(image_shape or dataset.image_shape), protocol.resolution, use_input)
    strata = StratifiedMetrics(protocol.bounds, dataset.class_names)
    rows: list[Row] = []
    cut = 0
    loader = DataLoader(frames, batch_size, num_workers=num_workers, collate_fn=_collate)
    was_training = isinstance(model, nn.Module) and model.training
    if was_training:
        model.eval()
    try:
        with Progress(len(frames), name or "evaluation", "frames", show=progress) as bar:
            for batch in loader:
                for truth, depth in _predictions(model, batch, protocol.flip_tta, device):
                    rows.append(_measure(truth, depth, protocol, strata)[0])
                    cut += crop_reaches_out(protocol, *truth["depth"].shape, truth["window"])
                bar.update(len(batch["truths"]))
        shown = choose_frames(rows) if show is None else list(show)
        samples = [_sample(model, frames, index, protocol, device) for index in shown]
    finally:
        if was_training:
            model.train()
    if cut:
        log.warning(
            "%s: crop %s reaches beyond what the data set's own crop leaves, in %d of %d images",
            name or "evaluation", protocol.crop, cut, len(rows),
        )  # fmt: skip
    dense = sum(any(key in row for key in EDGE_METRICS) for row in rows)
    images = sum(row["valid"] > 0 for row in rows)
    if protocol.edges and dense < images:
        log.info(
            "%s: the ground truth of %d of %d images is too sparse for the metrics at depth edges%s",
            name or "evaluation", images - dense, images, "; they are left out" if not dense else "",
        )  # fmt: skip
    summary = _summary(rows)
    if dense and (none := [key for key in EDGE_METRICS if key not in summary]):
        log.info("%s: no image has pixels or boundaries for %s", name or "evaluation", ", ".join(none))
    return Evaluation(
        name=name,
        protocol=protocol.to_dict(),
        summary=summary,
        **strata.compute(),
        frames=rows,
        samples=samples,
        origin={**machine(device), **(origin or {}), "edge_images": dense},
    )


def machine(device: torch.device) -> dict[str, Any]:
    """Return where and when this runs, and the versions that matter."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "depthloss": depthloss.__version__,
    }


def choose_frames(rows: Sequence[Row], count: int = SHOWN) -> list[int]:
    """Return the indices of the frames worth showing, the worst first: worst, median and best.

    Frames are ranked by abs_rel, or by the first metric where there is none. One with a prediction that is
    not finite is the worst.
    """
    rows = [row for row in rows if scored(row)]
    name = lead(rows)
    worse = sorted(rows, key=lambda row: badness(row, name), reverse=True)
    if len(worse) > count:
        third = count // 3
        middle = (len(worse) - third) // 2
        worse = [*worse[:third], *worse[middle : middle + third], *worse[-third:]]
    return [row["index"] for row in worse]


def _summary(rows: Sequence[Row]) -> dict[str, float | int]:
    """Means over the images that have the metric; a sum in exact arithmetic has no order."""
    filled = [row for row in rows if row["valid"]]
    summary: dict[str, float | int] = {}
    for metric in (*METRICS, *EDGE_METRICS):
        values = [row[metric] for row in filled if metric in row]
        if values or metric in METRICS:
            summary[metric] = math.fsum(values) / len(values) if values else math.nan
    summary |= {"images": len(filled), "empty": len(rows) - len(filled)}
    return {**summary, "nonfinite": sum(row["nonfinite"] for row in rows)}


class _Frames(Dataset):
    """The frames of a data set: what the network gets, and the ground truth."""

    def __init__(
        self, dataset: DepthDataset, shape: tuple[int, int], resolution: str, use_input: bool
    ) -> None:
        self.dataset = dataset
        self.shape = shape
        self.stored = resolution == "ground truth"
        self.use_input = use_input

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[Frame, Frame]:
        """Return frame `index` as the network gets it, and as it is compared."""
        stored = self.dataset.frame(index)
        small = prepare(stored, self.dataset.augmentation, self.shape, index=index)
        if self.stored:
            return small, stored
        # Another network is compared at the input size of the first.
        same = self.shape == self.dataset.image_shape
        return small, small if same else resize(stored, self.dataset.image_shape)

    def __getitem__(self, index: int) -> dict[str, Any]:
        small, truth = self.read(index)
        item = {"rgb": torch.from_numpy(small.rgb.transpose(2, 0, 1) / np.float32(255))}
        if self.use_input and small.input_depth is not None:
            item["input_depth"] = _tensor(small.input_depth)[None]
        maps = {"depth": _tensor(truth.depth), "name": self.dataset.name(index), "index": index}
        maps["window"] = truth.window
        if truth.mask is not None:
            maps["mask"] = _tensor(truth.mask)
        if truth.classes is not None:
            maps["classes"] = _tensor(truth.classes.transpose(2, 0, 1))
        return {**item, "truth": maps}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack what the network gets; the ground truth keeps the size of each frame."""
    inputs = {key: torch.stack([item[key] for item in items]) for key in items[0] if key != "truth"}
    return {"inputs": inputs, "truths": [item["truth"] for item in items]}


@torch.inference_mode()
def inverse_depth(model: Network, inputs: Mapping[str, Tensor], flip: bool = False) -> Tensor:
    """Return the inverse depth (1/m) of a batch, float32 [B, 1, H, W].

    Args:
        model: the network in evaluation mode.
        inputs: "rgb" and, if there is any, "input_depth", on its device.
        flip: take the mean with the prediction for the mirrored image.
    """
    inverse = model(dict(inputs))["inv_depths"][0].float()
    if not flip:
        return inverse
    mirrored = model({key: value.flip(-1) for key, value in inputs.items()})["inv_depths"][0].float()
    return (inverse + mirrored.flip(-1)) / 2


def _predictions(
    model: Network, batch: dict[str, Any], flip: bool, device: torch.device
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Yield the ground truth of each frame of a batch with the predicted depth [H, W] at its size."""
    inputs = {key: value.to(device) for key, value in batch["inputs"].items()}
    inverse = inverse_depth(model, inputs, flip)
    for truth, one in zip(batch["truths"], inverse.split(1), strict=True):
        shape = tuple(truth["depth"].shape)
        if one.shape[-2:] != shape:
            one = F.interpolate(one, shape, mode="bilinear", align_corners=False)
        depth = one[0, 0].reciprocal()
        # The metrics are in float64, which MPS has not.
        yield truth, depth.cpu() if device.type == "mps" else depth


def _measure(
    truth: dict[str, Any], depth: Tensor, protocol: Protocol, strata: StratifiedMetrics | None = None
) -> tuple[Row, Tensor, Tensor]:
    """Return the row of a frame, the prediction as it was compared, and the pixels that counted."""
    gt = truth["depth"].to(depth.device)
    valid = valid_pixels(gt, protocol.min_depth, protocol.max_depth)
    for keep in (truth.get("mask"), crop_mask(protocol, *gt.shape, truth["window"])):
        if keep is not None:
            valid = valid & keep.to(gt.device)
    row = {"name": truth["name"], "index": truth["index"], "valid": int(valid.sum())}
    row["nonfinite"] = int((valid & ~depth.isfinite()).sum())
    if protocol.alignment != "none":
        depth = aligned(protocol, depth, gt, valid)
    depth = clamped(depth, protocol.min_depth, protocol.max_depth)
    p, g = pixel_vector(depth, valid), pixel_vector(gt, valid)
    row |= dict(zip(METRICS, image_metrics(p, g).tolist(), strict=True))
    if protocol.edges and is_dense(valid):
        row |= edge_metrics(depth, gt, valid, protocol.edge_ratio)
    if strata is not None:
        classes = truth.get("classes")
        strata.update(p, g, None if classes is None else classes.to(gt.device)[:, valid])
    return row, depth, valid


def _sample(model: Network, frames: _Frames, index: int, protocol: Protocol, device: torch.device) -> Sample:
    # Predicted once more: which frames are worth showing is known only when all are done.
    small, shown = frames.read(index)
    [(truth, depth)] = _predictions(model, _collate([frames[index]]), protocol.flip_tta, device)
    _, depth, valid = _measure(truth, depth, protocol)
    sparse = None
    if frames.use_input and small.input_depth is not None:
        sparse = resize_depth(small.input_depth, shown.depth.shape)
    return Sample(
        rgb=shown.rgb.astype(np.float32) / 255,
        depth=np.where(valid.cpu().numpy(), shown.depth, np.float32(0)),
        prediction=depth.float().cpu().numpy(),
        input_depth=sparse,
        name=truth["name"],
        index=index,
    )
