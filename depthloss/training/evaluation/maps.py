"""Evaluation of folders of predictions, of any model, by a published protocol."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from depthloss.metrics import StratifiedMetrics, mean
from depthloss.protocols import Matched, Protocol
from depthloss.training.data import DataError
from depthloss.training.data.io import read_picture
from depthloss.training.drawing.figures import Sample
from depthloss.training.evaluation.evaluate import choose_frames, machine
from depthloss.training.evaluation.result import Evaluation, Row
from depthloss.training.evaluation.units import Reading, Unit, find_units
from depthloss.training.evaluation.wording import scored
from depthloss.training.progress import Progress

log = logging.getLogger("depthloss.evaluation")

BATCH = 32  # most units that a process is given at once
# From so many units on it pays to start processes.
MANY = 200
# From so many pixels on what was read is measured: so many that the calls take no time beside the pixels.
ENOUGH = 2**16
MISSING, UNREADABLE = "no prediction", "unreadable"


def evaluate_maps(
    methods: Mapping[str, str | Path],
    gt: str | Path,
    protocol: Protocol,
    kinds: str | None | Mapping[str, str | None] = None,
    *,
    mask: str | Path | None = None,
    rgb: str | Path | None = None,
    cameras: str | Path | None = None,
    reading: Reading | None = None,
    ranges: Sequence[float] = (),
    keep_going: bool = False,
    num_workers: int | None = None,
    origin: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[Evaluation]:
    """Measure folders of predictions on the same ground truth.

    One image or clip is in memory at a time, or some small ones, and a row of numbers for each that was.
    Files are paired by name; what has no partner is logged.

    Args:
        methods: folder of predictions by the method's name.
        gt: folder of ground truth, depth in metres.
        protocol: how to compare; one of clips takes each folder of frames as a clip.
        kinds: of the predictions, or of each method's, one of `KINDS`; None = that of the protocol.
        mask: folder of masks, non-zero = keep.
        rgb: folder of pictures, for the report.
        cameras: folder with CLIP.npz of each clip: "intrinsics" [3, 3], of a pixel whose centre is a whole
            number, and "poses" [T, 4, 4], camera to world; `tae` asks for it.
        reading: scales of PNGs and keys of archives.
        ranges: where ranges of depth begin, in metres, ascending, to measure by distance too; the last ends
            at the protocol's max_depth.
        keep_going: list a file that is damaged or does not fit as a frame that is left out; else it is an
            error.
        num_workers: processes that read and measure; None = one per core for many frames, else none.
        origin: what is known of where the numbers come from.
        progress: show how far it is.

    Returns:
        In the order of `methods`; each has a row of `frames` for every image or clip of the ground truth.

    Raises:
        DataError: a folder or file is missing or faulty.
        ValueError: the protocol has no alignment for a kind, or cameras and no clips.
    """
    if kinds is None or isinstance(kinds, str):
        kinds = dict.fromkeys(methods, kinds)
    kind_of = {name: kinds.get(name) or protocol.kind for name in methods}
    for kind in kind_of.values():
        protocol.aligned_by(kind)
    folders = {name: Path(folder) for name, folder in methods.items()}
    if cameras is not None and not protocol.per_clip:
        raise ValueError(f"cameras are for protocols of clips; {protocol.name} takes single images")
    others = (None if x is None else Path(x) for x in (mask, rgb, cameras))
    units, paired = find_units(folders, Path(gt), protocol.per_clip, *others)
    data = _Units(units, protocol, kind_of, reading or Reading(), tuple(ranges), keep_going)
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = cores if len(units) >= MANY and cores > 1 else 0
    # At least a hundred steps of the bar.
    batch_size = max(1, min(BATCH, len(units) // 100))
    loader = DataLoader(data, batch_size, num_workers=num_workers, collate_fn=_same)
    rows: dict[str, list[Row]] = {name: [] for name in methods}
    strata = data.strata()
    what = "clips" if protocol.per_clip else "images"
    with Progress(len(units), "evaluation", what, show=progress) as bar:
        for batch, parts in loader:
            for name in methods:
                rows[name] += batch[name]
                if name in parts:
                    strata[name].merge_state(parts[name])
            bar.update(len(next(iter(batch.values()))))
    shown = choose_frames(next(iter(rows.values())))
    known = {**machine(torch.device("cpu")), **(origin or {}), "ground_truth": str(gt)}
    evaluations = []
    for name, pairs in paired.items():
        kind = kind_of[name]
        summary = _summary(rows[name], protocol)
        _tell(name, rows[name], summary, protocol)
        evaluations.append(
            Evaluation(
                name=name,
                protocol={**protocol.to_dict(kind), "kind": kind},
                summary=summary,
                ranges=strata[name].compute()["ranges"] if name in strata else [],
                frames=rows[name],
                samples=[data.sample(i, name) for i in shown if scored(rows[name][i])],
                origin={**known, "predictions": str(folders[name]), "paired_by": pairs.rule}
                | ({"without_ground_truth": len(pairs.without_gt)} if pairs.without_gt else {}),
            )
        )
    return evaluations


def _summary(rows: Sequence[Row], protocol: Protocol) -> dict[str, float | int]:
    """Means over the rows that are scored and have the metric, and the counts."""
    filled = [row for row in rows if scored(row)]
    reasons = [row.get("reason", "") for row in rows]
    lacking = {
        "missing": sum(reason.startswith(MISSING) for reason in reasons),
        "unreadable": sum(reason.startswith(UNREADABLE) for reason in reasons),
    }
    means: dict[str, float] = mean(filled, protocol.metrics)
    if not filled:
        means = dict.fromkeys(protocol.metrics, math.nan)
    counts = {"images": len(filled), "empty": len(rows) - len(filled) - sum(lacking.values())}
    pixels = {
        key: sum(row.get(key, 0) for row in rows if "reason" not in row)
        for key in ("nonfinite", "nonpositive", "clipped")
    }
    return {**means, **counts, **{k: n for k, n in lacking.items() if n}, **pixels}


def _tell(name: str, rows: Sequence[Row], summary: Mapping[str, float], protocol: Protocol) -> None:
    if summary["images"] and (none := [key for key in protocol.metrics if key not in summary]):
        log.info("%s: the data do not allow %s", name, ", ".join(none))
    for row in rows:
        if row.get("reason", "").startswith(UNREADABLE):
            log.warning("%s: %s is left out: %s", name, row["name"], row["reason"].partition(": ")[2])


def _same(batch: Any) -> Any:
    return batch


class _Read(NamedTuple):
    """An image or clip of a method: its row, which gets the numbers, and what they are taken of."""

    row: Row
    matched: Matched
    camera: dict[str, torch.Tensor]


class _Units(Dataset):
    """Reads and measures images or clips."""

    def __init__(
        self,
        units: list[Unit],
        protocol: Protocol,
        kinds: dict[str, str],
        reading: Reading,
        ranges: tuple[float, ...],
        keep_going: bool,
    ) -> None:
        self.units, self.protocol, self.kinds, self.reading = units, protocol, kinds, reading
        self.keep_going = keep_going
        end = protocol.max_depth or math.inf
        lows = [low for low in ranges if low < end]
        self.bounds = list(zip(lows, [*lows, end][1:], strict=True))

    def __len__(self) -> int:
        return len(self.units)

    def strata(self) -> dict[str, StratifiedMetrics]:
        """Return the empty sums by distance of each method; none without ranges."""
        found = {name: StratifiedMetrics(self.bounds) for name in self.kinds} if self.bounds else {}
        for one in found.values():
            one.update(*torch.empty(2, 0, dtype=torch.float64))  # else it warns where no image is scored
        return found

    @torch.inference_mode()
    def __getitems__(self, indices: list[int]) -> tuple[dict[str, list[Row]], dict[str, StratifiedMetrics]]:
        rows: dict[str, list[Row]] = {name: [] for name in self.kinds}
        strata = self.strata()
        waiting: dict[str, list[_Read]] = {name: [] for name in self.kinds}
        pixels = 0
        for place, index in enumerate(indices, 1):
            for name, row, read in self._read(index):
                rows[name].append(row)
                if read is not None:
                    waiting[name].append(read)
                    pixels += math.prod(read.matched.gt.shape)
            if pixels >= ENOUGH or place == len(indices):
                for name, of in waiting.items():
                    self._measure(of, self.kinds[name], strata.get(name))
                    of.clear()
                pixels = 0
        return rows, strata

    def _read(self, index: int) -> Iterator[tuple[str, Row, _Read | None]]:
        """Yield the row of each method, with what is to be measured if there is something."""
        unit = self.units[index]
        known: Row = {"name": unit.name, "index": index, "valid": 0, "nonfinite": 0}
        if self.protocol.per_clip:
            known["frames"] = len(unit.frames)
        truth: tuple[np.ndarray, np.ndarray | None] | None = None
        for name in self.kinds:
            if lost := sum(name not in frame.preds for frame in unit.frames):
                of = f": {lost} of {len(unit.frames)} frames have none" if self.protocol.per_clip else ""
                yield name, {**known, "reason": f"{MISSING}{of}"}, None
                continue
            row = dict(known)
            try:
                truth = truth or self.reading.gt(unit)  # only if there is something to compare with it
                matched = self._matched(unit, name, truth)
                yield name, row, _Read(row, matched, self.reading.camera(unit))
            except DataError as error:
                yield name, {**row, "reason": self._left_out(error)}, None

    def _measure(self, waiting: list[_Read], kind: str, strata: StratifiedMetrics | None) -> None:
        """Fill the rows of what was read of one method."""
        frames = self.protocol.convert([read.matched for read in waiting], kind)
        for read, frame in zip(waiting, frames, strict=True):
            read.row.update(frame.counts | frame.alignment)
            if frame.reason:
                read.row["reason"] = frame.reason
        scored = [(r, f) for r, f in zip(waiting, frames, strict=True) if not f.reason]
        values = self.protocol.score_all([f for _, f in scored], [r.camera for r, _ in scored])
        for (read, frame), of in zip(scored, values, strict=True):
            read.row.update(of)
            if strata is not None:
                strata.update(frame.p, frame.g)

    def _left_out(self, error: DataError) -> str:
        if not self.keep_going:
            raise error
        return f"{UNREADABLE}: {error}"

    def _matched(self, unit: Unit, method: str, truth: tuple[np.ndarray, np.ndarray | None]) -> Matched:
        maps = [self.reading.pred(unit, method), *truth]
        if not self.protocol.per_clip:
            maps = [None if x is None else x[0] for x in maps]
        try:
            return self.protocol.match(*maps, self.kinds[method])
        except ValueError as error:
            # The shapes do not fit: a matter of these files.
            raise DataError(f"{unit.frames[0].preds[method]}: {error}") from error

    @torch.inference_mode()
    def sample(self, index: int, method: str) -> Sample:
        """Return the picture of an image, of a clip its middle one."""
        # Read once more: which are worth showing is known only when all are done.
        unit = self.units[index]
        matched = self._matched(unit, method, self.reading.gt(unit))
        [whole] = self.protocol.convert([matched], self.kinds[method])
        frames = whole.frames()
        frame, middle = frames[len(frames) // 2], unit.frames[len(frames) // 2]
        rgb = None if middle.rgb is None else read_picture(middle.rgb)[0].astype(np.float32) / 255
        return Sample(
            rgb=rgb,
            depth=torch.where(frame.valid, frame.gt, 0.0).float().numpy(),
            prediction=frame.depth.float().numpy(),
            name=unit.name,
            index=index,
        )
