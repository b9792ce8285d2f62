"""Pair the maps of two folders by name."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from depthloss.training.data.hdf5 import count_frames
from depthloss.training.data.io import fault, logger, not_a_folder
from depthloss.training.data.listing import by_name
from depthloss.training.data.maps import FORMATS
from depthloss.training.errors import counted

_SHOWN = 3


@dataclass(frozen=True)
class Pairs:
    """Which prediction belongs to which ground truth.

    Attributes:
        rule: how the names were compared, in words.
        files: (name, prediction, ground truth), sorted by name: that of the ground truth, without suffix.
        without_gt: names of predictions that have no ground truth.
        without_pred: names of ground truth that has no prediction.
    """

    rule: str
    files: list[tuple[str, Path, Path]]
    without_gt: list[str]
    without_pred: list[str]


def pair(
    pred: str | Path, gt: str | Path, what: str = "prediction", suffixes: Sequence[str] = tuple(FORMATS)
) -> Pairs:
    """Pair the maps below two folders, and log the rule and what has no partner.

    Names are paths below the folder without suffix. If no path is in both, file names alone are compared,
    which must then be unique in each folder.

    Args:
        pred: folder of predictions, or of what else belongs to the ground truth; or a MATLAB file with many
            maps, such as nyu_depth_v2_labeled.mat, whose names are their numbers, from 0001 on.
        gt: ground truth, likewise, in any of `FORMATS`.
        what: what the files of `pred` are, for the log.
        suffixes: of the files of `pred`, in lower case.

    Returns:
        The pairs; `read_map` reads both files of each.

    Raises:
        DataError: no folder, no map in it, two maps of one name, or no pair.
    """
    pred, gt = Path(pred), Path(gt)
    found = [_maps(pred, suffixes), _maps(gt, tuple(FORMATS))]
    ours, theirs = found
    rule = "same path without suffix"
    if not ours.keys() & theirs.keys():
        rule = "same file name without suffix"
        ours, theirs = (_flat(folder, of) for folder, of in zip((pred, gt), found, strict=True))
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        got = f"names such as {min(ours)!r}, and {min(theirs)!r} in {gt}"
        raise fault(pred, got, "the same names in both folders", "rename the files, suffixes aside")
    alone, missing = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    logger.info("%s and %s: %s, by the rule: %s", pred, gt, counted(len(both), "pair"), rule)
    for folder, names, lack in ((pred, alone, "ground truth"), (gt, missing, what)):
        if names:
            have = "has" if len(names) == 1 else "have"
            logger.warning(
                "%s: %s %s no %s: %s", folder, counted(len(names), "map"), have, lack, _some(names)
            )
    return Pairs(rule, [(n, pred / ours[n], gt / theirs[n]) for n in both], alone, missing)


def _maps(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Return {name: path below the folder}."""
    if folder.suffix.lower() == ".mat" and not folder.is_dir():
        return {name: name for name in (f"{i:04d}" for i in range(1, count_frames(folder) + 1))}
    if got := not_a_folder(folder):
        raise fault(folder, got, "a folder of maps", "check the path")
    found = by_name(folder, suffixes)
    if not found:
        raise fault(folder, "no map", f"files with suffix {', '.join(suffixes)}", "check the folder")
    return {name: f"{name}{suffix}" for name, suffix in found.items()}


def _flat(folder: Path, found: dict[str, str]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, file in found.items():
        stem = posixpath.basename(name)
        if stem in flat:
            fix = "give both folders the same sub-folders"
            raise fault(folder, f"{flat[stem]} and {file}", "one map per file name", fix)
        flat[stem] = file
    return flat


def _some(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
