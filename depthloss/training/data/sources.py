"""Where the files of KITTI depth completion and of TUM RGB-D lie, frame by frame."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from depthloss.training.data.io import fault, logger

PICTURES = (".png", ".jpg")
SELECTION = "val_selection_cropped"
# The files of a frame, by the folder of the `rgbd-folder` layout that they belong to.
Files = dict[str, Path]


def find_kitti(source: Path, raw: Path | None = None) -> dict[str, dict[str, Files]]:
    """Find the frames of KITTI depth completion.

    Below `source` lie data_depth_annotated/SPLIT and data_depth_velodyne/SPLIT, or SPLIT with both in it, for
    train and val; and depth_selection/val_selection_cropped. All are optional.

    Args:
        source: folder of the depth maps.
        raw: folder of KITTI raw, which has the pictures of train and val; None = `source`, or raw, kitti_raw
            or data_rgb in it.

    Returns:
        For each split, by name DRIVE/CAMERA/NUMBER, where the files of a frame should be.

    Raises:
        DataError: there is none of it.
    """
    roots = [raw] if raw else [source, *(source / name for name in ("raw", "kitti_raw", "data_rgb"))]
    found = {split: dict(_kitti_tree(source, split, roots)) for split in ("train", "val")}
    found[SELECTION] = dict(_kitti_selection(source))
    found = {split: frames for split, frames in found.items() if frames}
    if not found:
        raise fault(
            source,
            "no ground truth of KITTI depth completion",
            "data_depth_annotated/{train,val}/DRIVE/proj_depth/groundtruth/image_0X/*.png or "
            f"depth_selection/{SELECTION}/groundtruth_depth/*.png",
            "unpack data_depth_annotated.zip, data_depth_velodyne.zip and data_depth_selection.zip there",
        )
    return found


def _kitti_tree(source: Path, split: str, roots: list[Path]) -> Iterator[tuple[str, Files]]:
    form = "*/proj_depth/groundtruth/image_0[23]/*.png"
    choices = (source / "data_depth_annotated" / split, source / split)
    truth = next((c for c in choices if next(c.glob(form), None)), None)
    if truth is None:
        return
    choices = (source / "data_depth_velodyne" / split, source / split)
    sweeps = next((c for c in choices if next(c.glob("*/proj_depth/velodyne_raw"), None)), choices[0])
    folders: dict[tuple[str, str], Path] = {}
    for depth in sorted(truth.glob(form)):
        drive, camera = depth.parents[3].name, depth.parent.name
        if (drive, camera) not in folders:
            below = (Path(drive[:10]) / drive, Path(drive), Path(split) / drive)
            places = [root / b / camera / "data" for root in roots for b in below]
            folders[drive, camera] = next((p for p in places if p.is_dir()), places[0])
        yield (
            f"{drive}/{camera}/{depth.stem}",
            {
                "input_depth": sweeps / drive / "proj_depth" / "velodyne_raw" / camera / depth.name,
                "depth": depth,
                "rgb": _picture(folders[drive, camera] / depth.name),
            },
        )


def _kitti_selection(source: Path) -> Iterator[tuple[str, Files]]:
    places = (source / "depth_selection" / SELECTION, source / SELECTION, source)
    root = next((p for p in places if (p / "groundtruth_depth").is_dir()), None)
    if root is None:
        return
    for depth in sorted((root / "groundtruth_depth").glob("*.png")):
        match = re.fullmatch(r"(.+)_groundtruth_depth_(\d+)_(image_0\d)", depth.stem)
        if not match:
            raise fault(
                depth,
                "this name",
                "DRIVE_groundtruth_depth_NUMBER_image_0X.png",
                "leave the names as they are",
            )
        drive, number, camera = match.groups()
        yield (
            f"{drive}/{camera}/{number}",
            {
                "input_depth": root / "velodyne_raw" / f"{drive}_velodyne_raw_{number}_{camera}.png",
                "depth": depth,
                "rgb": _picture(root / "image" / f"{drive}_image_{number}_{camera}.png"),
            },
        )


def _picture(file: Path) -> Path:
    return next((p for p in map(file.with_suffix, PICTURES) if p.is_file()), file)


def find_tum(
    source: Path, associations: Path | None = None, max_difference: float = 0.02
) -> dict[str, dict[str, Files]]:
    """Find the frames of a TUM RGB-D sequence.

    Args:
        source: folder of the sequence.
        associations: file with lines "TIME rgb/FILE TIME depth/FILE", or the depth first; None = the
            associations.txt of the sequence if there is one, else rgb.txt and depth.txt are associated.
        max_difference: then the largest difference in time of two images of a frame, in seconds.

    Returns:
        Under "" by name, which is that of the picture, where the files of a frame should be.

    Raises:
        DataError: a list is missing or faulty, or no two images belong together.
    """
    if associations is None and (source / "associations.txt").is_file():
        associations = source / "associations.txt"
        logger.info("%s is used", associations)
    if associations is not None:
        pairs = _read_associations(associations)
    else:
        times, files = zip(*(_read_list(source / f"{kind}.txt") for kind in ("rgb", "depth")), strict=True)
        pairs = [(files[0][i], files[1][j]) for i, j in associate(*times, max_difference)]
        print(f"{len(pairs)} frames of {len(files[0])} pictures and {len(files[1])} depth maps")
        if not pairs:
            raise fault(
                source / "depth.txt",
                f"no depth map within {max_difference:g} s of a picture of rgb.txt",
                "time stamps of one clock",
                "raise --max-difference",
            )
    frames = {Path(rgb).stem: {"depth": source / depth, "rgb": source / rgb} for rgb, depth in pairs}
    if len(frames) < len(pairs):
        twice = collections.Counter(Path(rgb).stem for rgb, _ in pairs).most_common(1)[0][0]
        raise fault(associations or source, f"two frames {twice}", "one frame per picture", "remove one")
    return {"": frames}


def associate(
    first: Sequence[float], second: Sequence[float], max_difference: float
) -> list[tuple[int, int]]:
    """Pair time stamps one to one, the closest ones first.

    Args:
        first: time stamps in seconds.
        second: likewise.
        max_difference: the largest difference of a pair.

    Returns:
        Pairs of an index of `first` and one of `second`, in order of the former.
    """
    order = np.argsort(second, kind="stable")
    sorted_times = np.asarray(second, float)[order]
    close = []
    for i, time in enumerate(first):
        low = np.searchsorted(sorted_times, time - max_difference, "left")
        high = np.searchsorted(sorted_times, time + max_difference, "right")
        close += [(abs(time - sorted_times[k]), i, int(order[k])) for k in range(low, high)]
    taken: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for _, i, j in sorted(close):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            pairs.append((i, j))
    return sorted(pairs)


def _rows(file: Path, words: int, form: str) -> list[list[str]]:
    if not file.is_file():
        raise fault(
            file, "no such file", f"lines {form}", "unpack the whole sequence, or give --associations"
        )
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        row = line.split("#")[0].split()
        if row and len(row) != words:
            raise fault(f"{file}, line {number}", repr(line), form, "correct the line")
        rows += [row] if row else []
    return rows


def _read_list(file: Path) -> tuple[list[float], list[str]]:
    rows = _rows(file, 2, "TIME FILE")
    try:
        return [float(time) for time, _ in rows], [name for _, name in rows]
    except ValueError as error:
        raise fault(file, str(error), "lines TIME FILE", "correct the line") from None


def _read_associations(file: Path) -> list[tuple[str, str]]:
    form = "TIME rgb/FILE TIME depth/FILE"
    pairs = []
    for _, one, _, other in _rows(file, 4, form):
        if ("depth" in one) == ("depth" in other):
            raise fault(file, f"{one} and {other}", form, 'exactly one of the paths must hold "depth"')
        pairs.append((other, one) if "depth" in one else (one, other))
    if not pairs:
        raise fault(file, "no frame", f"lines {form}", "check --associations")
    return pairs
