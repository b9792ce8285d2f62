"""Where the files of KITTI depth completion and of TUM RGB-D lie, frame by frame."""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from depthloss.training.data.files import some
from depthloss.training.data.io import DataError, fault, logger
from depthloss.training.data.listing import PNG, RGB_SUFFIXES, Lookup, by_name, entries, split_suffix
from depthloss.training.data.lists import Line, Listed, first_column, read_lines, resolve
from depthloss.training.errors import counted

SELECTION = "val_selection_cropped"
_TIME = r"([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)"
Find = Callable[[str], str | None]
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
        DataError: there are no frames.
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
    choices = (source / "data_depth_annotated" / split, source / split)
    truth = next((c for c in choices if any(_kitti_depth(c))), None)
    if truth is None:
        return
    choices = (source / "data_depth_velodyne" / split, source / split)
    sweeps = next((c for c in choices if any(_drives(c, "velodyne_raw"))), choices[0])
    for drive, camera, files in _kitti_depth(truth):
        below = (Path(drive[:10]) / drive, Path(drive), Path(split) / drive)
        places = [root / b / camera / "data" for root in roots for b in below]
        pictures = Lookup(next((p for p in places if p.is_dir()), places[0]))
        sparse = Lookup(sweeps / drive / "proj_depth" / "velodyne_raw" / camera)
        for number, suffix in files.items():
            file = f"{number}{suffix}"
            yield (
                f"{drive}/{camera}/{number}",
                {
                    "input_depth": sparse.place(file, PNG),
                    "depth": truth / drive / "proj_depth" / "groundtruth" / camera / file,
                    "rgb": pictures.place(file, RGB_SUFFIXES),
                },
            )


def _drives(root: Path, kind: str) -> Iterator[str]:
    """The drives below a folder that have depth maps of a type."""
    if root.is_dir():
        yield from (drive for drive in entries(root)[0] if (root / drive / "proj_depth" / kind).is_dir())


def _kitti_depth(root: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Drive, camera and {number: suffix} of the ground truth below a folder."""
    for drive in _drives(root, "groundtruth"):
        cameras = root / drive / "proj_depth" / "groundtruth"
        for camera in entries(cameras)[0]:
            if re.fullmatch("image_0[23]", camera) and (files := by_name(cameras / camera, PNG, deep=False)):
                yield drive, camera, files


def _kitti_selection(source: Path) -> Iterator[tuple[str, Files]]:
    places = (source / "depth_selection" / SELECTION, source / SELECTION, source)
    root = next((p for p in places if (p / "groundtruth_depth").is_dir()), None)
    if root is None:
        return
    sparse, pictures = Lookup(root / "velodyne_raw"), Lookup(root / "image")
    for name, suffix in by_name(root / "groundtruth_depth", PNG, deep=False).items():
        depth = root / "groundtruth_depth" / f"{name}{suffix}"
        match = re.fullmatch(r"(.+)_groundtruth_depth_(\d+)_(image_0\d)", name)
        if not match:
            raise fault(
                depth,
                "this name",
                "DRIVE_groundtruth_depth_NUMBER_image_0X.png",
                "leave the names as they are",
            )
        drive, number, camera = match.groups()
        sweep, image = (f"{drive}_{kind}_{number}_{camera}.png" for kind in ("velodyne_raw", "image"))
        yield (
            f"{drive}/{camera}/{number}",
            {
                "input_depth": sparse.place(sweep, PNG),
                "depth": depth,
                "rgb": pictures.place(image, RGB_SUFFIXES),
            },
        )


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
    find = functools.partial(Lookup(source).named, suffixes=RGB_SUFFIXES)
    if associations is None and (source / "associations.txt").is_file():
        associations = source / "associations.txt"
        logger.info("%s is used", associations)
    if associations is not None:
        pairs = _read_associations(associations, find)
    else:
        lists = (_read_list(source / f"{kind}.txt", find) for kind in ("rgb", "depth"))
        times, files = zip(*lists, strict=True)
        pairs = [(files[0][i], files[1][j]) for i, j in associate(*times, max_difference)]
        of = f"{counted(len(files[0]), 'picture')} and {counted(len(files[1]), 'depth map')}"
        print(f"{counted(len(pairs), 'frame')} of {of}")
        if not pairs:
            raise fault(
                source / "depth.txt",
                f"no depth map within {max_difference:g} s of a picture of rgb.txt",
                "time stamps of one clock",
                "raise --max-difference",
            )
    if lost := [file for pair in pairs for file in pair if not file.found]:
        logger.warning("%s: no file for %d of %d names: %s", source, len(lost), 2 * len(pairs), some(lost))
    stems = [split_suffix(Path(rgb.name).name, RGB_SUFFIXES)[0] for rgb, _ in pairs]
    frames = {
        stem: {"depth": source / depth.name, "rgb": source / rgb.name}
        for stem, (rgb, depth) in zip(stems, pairs, strict=True)
    }
    if len(frames) < len(pairs):
        twice = collections.Counter(stems).most_common(1)[0][0]
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


def _read_list(file: Path, find: Find) -> tuple[list[float], list[Listed]]:
    times, files = [], []
    for line, time, text in _timed(file, "TIME FILE"):
        times.append(time)
        files.append(_listed(file, line, text, find))
    return times, files


def _read_associations(file: Path, find: Find) -> list[tuple[Listed, Listed]]:
    form = "TIME rgb/FILE TIME depth/FILE"
    pairs = []
    for line, _, text in _timed(file, form):
        # A name may contain what looks like a time: it is the files that tell.
        cuts = [(time.start(), time.end()) for time in re.finditer(rf"(?<=\s){_TIME}(?=\s)", text)]
        tries = [[_listed(file, line, part.strip(), find) for part in (text[:a], text[b:])] for a, b in cuts]
        if not tries:
            raise _wrong(file, line, repr(line.text), form)
        one, other = next((pair for pair in tries if all(name.found for name in pair)), tries[0])
        if ("depth" in one.name) == ("depth" in other.name):
            got, fix = f"{one.name} and {other.name}", 'exactly one of the paths must hold "depth"'
            raise _wrong(file, line, got, form, fix)
        pairs.append((other, one) if "depth" in one.name else (one, other))
    if not pairs:
        raise fault(file, "no frame", f"lines {form}", "check --associations")
    return pairs


def _timed(file: Path, form: str) -> Iterator[tuple[Line, float, str]]:
    """The lines of a file that begin with a time, the time, and what follows."""
    for line in read_lines(file, f"lines {form}", "unpack the whole sequence, or give --associations"):
        match = re.fullmatch(rf"{_TIME}\s+(.+)", line.text)
        if not match:
            raise _wrong(file, line, repr(line.text), form)
        yield line, float(match[1]), match[2]


def _wrong(file: Path, line: Line, got: str, form: str, fix: str = "correct the line") -> DataError:
    return fault(f"{file}, line {line.number}", got, form, fix)


def _listed(file: Path, line: Line, text: str, find: Find) -> Listed:
    name = resolve(f"{file}, line {line.number}", text, "file", find)
    return Listed(name or first_column(text), f"line {line.number} of {file.name}", name is not None)
