"""Bring KITTI depth completion or TUM RGB-D into the `rgbd-folder` layout.

    python -m depthloss.training.data.convert kitti-dc SRC DST
        [--raw DIR] [--skip-missing] [--link]
    python -m depthloss.training.data.convert tum SRC DST
        [--associations FILE] [--max-difference 0.02]

Files are copied or linked as they are, so no value changes. A conversion that
was stopped resumes when it is run again: files appear whole or not at all, and
what is there already is left alone.
"""

from __future__ import annotations

import argparse
import collections
import filecmp
import math
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from depthloss.training.command import DEBUG, complain, start_log
from depthloss.training.data.folder import RGBDFolder
from depthloss.training.data.io import DataError, fault, logger, not_a_file, not_a_folder
from depthloss.training.data.sources import SELECTION, Files, find_kitti, find_tum
from depthloss.training.errors import counted
from depthloss.training.progress import Progress


class Source(NamedTuple):
    """A data set that can be converted: PNG units per metre, and the largest depth to train on."""

    depth_scale: float
    max_depth: float


SOURCES = {"kitti-dc": Source(256, 80), "tum": Source(5000, 10)}


def complete(frames: dict[str, Files], skip_missing: bool, fix: str) -> dict[str, Files]:
    """Leave out the frames that lack a file, or refuse them.

    Args:
        frames: the files of each frame.
        skip_missing: whether to leave them out, with a log line.
        fix: for the error: where the files come from.

    Raises:
        DataError: a file is missing and `skip_missing` is false, or no frame is complete.
    """
    lacking = {
        name: file
        for name, files in frames.items()
        if (file := next(filter(not_a_file, files.values()), None))
    }
    if lacking:
        name, file = next(iter(lacking.items()))
        if not skip_missing or len(lacking) == len(frames):
            others = counted(len(lacking) - 1, "more frame")
            more = f", and of {others} one is missing" if len(lacking) > 1 else ""
            raise fault(file, f"{not_a_file(file)}{more}", f"a file of frame {name}", fix)
        logger.warning("%d of %d frames left out: a file is missing (%s)", len(lacking), len(frames), file)
    return {name: files for name, files in frames.items() if name not in lacking}


class Writer:
    """Puts files into place, whole or not at all.

    Args:
        link: make hard links; where that is impossible, copies, with one log line.

    Attributes:
        counts: how many files were "written", "there already" and "replaced", as another was in their place.
    """

    def __init__(self, link: bool = False) -> None:
        self.link = link
        self.counts: collections.Counter[str] = collections.Counter()

    def put(self, source: Path, target: Path) -> None:
        """Make `target` the same as `source`, if it is not."""
        done = "written"
        if target.is_file():
            # The same size and modification time, as a copy has them, or the same bytes.
            if filecmp.cmp(source, target):
                self.counts["there already"] += 1
                return
            done = "replaced"
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")  # Data sets pass over hidden files.
        part.unlink(missing_ok=True)
        try:
            self._make(source.resolve(), part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        self.counts[done] += 1

    def _make(self, source: Path, part: Path) -> None:
        if self.link:
            try:
                os.link(source, part)
                return
            except OSError as error:
                logger.warning("%s: no hard link is possible (%s), files are copied", part, error.strerror)
                self.link = False
        shutil.copyfile(source, part)
        shutil.copystat(source, part)


def convert(frames: dict[str, Files], target: Path, link: bool = False) -> collections.Counter[str]:
    """Write frames as an `rgbd-folder`.

    Args:
        frames: by name, the files of each frame by the folder that they go to.
        target: the `rgbd-folder`.
        link: make hard links instead of copies, where that is possible.

    Returns:
        How many files were "written", "there already" and "replaced".
    """
    writer = Writer(link)
    with Progress(len(frames), str(target), "frames") as progress:
        for name, files in frames.items():
            for folder, file in files.items():
                writer.put(file, target / folder / f"{name}{file.suffix.lower()}")
            progress.update()
    return writer.counts


def train_command(kind: str, folders: dict[str, Path]) -> list[str]:
    """Return the command that trains on what was converted.

    Args:
        kind: one of `SOURCES`.
        folders: the `rgbd-folder` of each split.
    """
    source = SOURCES[kind]
    train = folders.get("train") or next(iter(folders.values()))
    others = [folders[split] for split in (SELECTION, "val") if split in folders and folders[split] != train]
    first = RGBDFolder(
        path=train,
        depth_scale=source.depth_scale,
        image_shape=(1, 1),
        min_depth=1e-3,
        max_depth=source.max_depth,
        train=False,
    )
    height, width = first.load(0).depth.shape
    size = f"[192,{max(1, round(192 * width / height / 32)) * 32}]"
    words = ["depthloss", "train", "--name", kind, "--datasets.image_shape", size]
    words += ["--model.params.max_depth", f"{source.max_depth:g}"]
    if (train / "input_depth").is_dir():
        words += ["--model.depth_net.sparse_branch", "true"]
    for split, path in zip(("train", "validation"), [train, *others[:1]], strict=False):
        options = {"dataset": "rgbd-folder", "path": str(path), "depth_scale": f"{source.depth_scale:g}"}
        for key, value in options.items():
            words += [f"--datasets.{split}.{key}", value]
    return words


def main(argv: list[str] | None = None) -> None:
    """Run the command; an error of the user ends it with one line and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m depthloss.training.data.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in SOURCES:
        sub = kinds.add_parser(kind)
        sub.add_argument("source", metavar="SRC", type=Path, help="the data set as unpacked")
        sub.add_argument("target", metavar="DST", type=Path, help="where to write; made if it is not there")
        sub.add_argument("--link", action="store_true", help="hard links instead of copies, where possible")
        sub.add_argument("--skip-missing", action="store_true", help="leave out frames that lack a file")
    kinds.choices["kitti-dc"].add_argument("--raw", type=Path, help="folder of KITTI raw, with DATE/DRIVE")
    tum = kinds.choices["tum"]
    tum.add_argument("--associations", type=Path, help="file of pairs; default: by rgb.txt and depth.txt")
    tum.add_argument("--max-difference", type=float, default=0.02, help="of a pair's time stamps, in s")
    parser.add_argument(DEBUG, action="store_true", help="show the traceback of an error")
    options = parser.parse_args(start_log(sys.argv[1:] if argv is None else argv))
    try:
        _run(options)
    except (DataError, OSError) as error:
        advice = "; then run the same command again, it resumes" if isinstance(error, OSError) else ""
        sys.exit(complain("convert", f"{error}{advice}", 2))


def _run(options: argparse.Namespace) -> None:
    source, target = options.source.expanduser(), options.target.expanduser()
    if got := not_a_folder(source):
        raise fault(source, got, f"a folder with {options.kind}", "check SRC")
    if target.resolve() == source.resolve():
        raise fault(target, "the same folder as SRC", "another one", "give a new folder as DST")
    if options.kind == "tum":
        if not 0 <= options.max_difference < math.inf:
            raise DataError(f"--max-difference must be >= 0 and finite, got {options.max_difference}")
        sets = find_tum(source, options.associations, options.max_difference)
        fix = "unpack the whole sequence, or leave such frames out with --skip-missing"
    else:
        sets = find_kitti(source, options.raw)
        fix = (
            "unpack data_depth_velodyne.zip, and the KITTI raw drive of a picture (--raw gives the folder of "
            "KITTI raw), or leave such frames out with --skip-missing"
        )
    folders = {split: target / split for split in sets}
    sets = {split: complete(frames, options.skip_missing, fix) for split, frames in sets.items()}
    for split, frames in sets.items():
        counts = convert(frames, folders[split], options.link)
        parts = ", ".join(next(iter(frames.values())))
        files = ", ".join(f"{count} {what}" for what, count in counts.items())
        print(f"{folders[split]}: {counted(len(frames), 'frame')} with {parts}; files: {files}")
    print(f"depth_scale: {SOURCES[options.kind].depth_scale:g}")
    print(shlex.join(train_command(options.kind, folders)))


if __name__ == "__main__":
    main()
