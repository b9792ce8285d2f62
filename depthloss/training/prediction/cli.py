"""The command `predict.py`: depth of images and folders of images, without ground truth."""

from __future__ import annotations

import functools
import logging
import math
import re
import sys
import time
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from depthloss.training.command import (
    DEBUG,
    check_at_least,
    choose_device,
    complain,
    parse_flags,
    program,
    start_log,
)
from depthloss.training.configuration.build import build_loss
from depthloss.training.configuration.networks import size_multiple
from depthloss.training.data import DataError
from depthloss.training.data.io import not_a_folder
from depthloss.training.errors import ConfigError, counted, did_you_mean
from depthloss.training.evaluation.load import Run, load_run
from depthloss.training.evaluation.wording import plural
from depthloss.training.files import NO_ROOM, check_folder, reason
from depthloss.training.models import NetworkError
from depthloss.training.prediction.pictures import Picture, Pictures, find_pictures
from depthloss.training.prediction.predict import Report, predict
from depthloss.training.prediction.results import FORMATS, MOST, Results

log = logging.getLogger("depthloss.prediction")

_complain = functools.partial(complain, "predict.py")

DESCRIPTION = """Predict the depth of images with a checkpoint of depthloss train. Every result has the size
and the orientation in which a viewer shows the image."""

EPILOG = """Results are DIR/depth/NAME.png, DIR/npy/NAME.npy and DIR/preview/NAME.png, where NAME mirrors the
folders of the images. What cannot be read is named at the end, with exit status 1; the rest is done."""


def main(argv: list[str] | None = None) -> None:
    """Run the command; exit status 2 after an error of the user, 1 if an image was not predicted."""
    argv = start_log(sys.argv[1:] if argv is None else argv)
    try:
        report = run(argv)
    except (ConfigError, NetworkError) as error:
        sys.exit(_complain(error, 2))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        text = reason(error, Path(error.filename or ".").parent)
        sys.exit(_complain(f"{error.filename} could not be written: {text}; --skip-existing resumes", 1))
    except KeyboardInterrupt:
        sys.exit(_complain("stopped by Ctrl-C; --skip-existing resumes", 130))
    if report.faults:
        total = report.done + len(report.faults)
        lines = "\n".join(f"  {fault}" for fault in report.faults)
        sys.exit(_complain(f"{len(report.faults)} of {total} images were not predicted:\n{lines}", 1))


def run(argv: list[str]) -> Report:
    """Predict as the command line says.

    Args:
        argv: the command line without the program's name.

    Raises:
        ConfigError: the checkpoint, a flag or an input cannot be used, or the results cannot be written.
        NetworkError: what the network returned is no depth.
        OSError: there is no room for the results.
        SystemExit: after `--help`.
    """
    options = _parse(argv)
    device = choose_device(options.device)
    run = load_run(Path(options.checkpoint), networks=options.network)
    results = _results(options)
    found = _find(options, results)
    sparse = _sparse(options, run)
    shape, multiple = _shape(options.resize, run), size_multiple(run.model.depth_net)
    _say_what(run, len(found), shape, multiple)
    params = run.cfg.model.params
    began = time.monotonic()
    report = predict(
        run.model.to(device),
        Pictures(found, shape, sparse, options.sparse_scale, (params.min_depth, params.max_depth)),
        results,
        device=device,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        multiple=multiple,
        flip=options.flip_tta,
        progress=not options.no_progress,
    )
    _say_how(report, results, time.monotonic() - began)
    return report


def _parse(argv: list[str]) -> Namespace:
    parser = ArgumentParser(
        prog=program("predict.py"),
        usage=f"{program('predict.py')} CHECKPOINT PATH [PATH ...] --out DIR [--flag value ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=str, help="file, or run directory: its best.ckpt, else last.ckpt")
    parser.add_argument("paths", type=str, nargs="+", help="images, and folders with images at any depth")
    parser.add_argument("--out", type=str | None, help="folder of the results; needed")
    parser.add_argument("--formats", type=str, default=",".join(FORMATS), help="which results to write")
    parser.add_argument(
        "--png-scale",
        type=float,
        default=256.0,
        help=f"units per metre of the 16-bit PNG, which end at {MOST}/SCALE metres; 0 = no depth",
    )
    parser.add_argument(
        "--preview-range",
        type=float,
        nargs=2,
        metavar=("NEAR", "FAR"),
        help="depths in metres at the ends of the preview's colours; null is those of each image",
    )
    parser.add_argument(
        "--sparse", type=str | None, help="folder with sparse depth of the same names, 16-bit PNG, 0 = none"
    )
    parser.add_argument("--sparse-scale", type=float, default=256.0, help="units per metre of these PNG")
    parser.add_argument(
        "--resize",
        type=str | None,
        help="size HxW at which the network gets the images, such as 192x640, or training: that of its "
        "training; null is their own, padded",
    )
    parser.add_argument(
        "--flip-tta", action="store_true", help="take the mean with the prediction for the mirrored image"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")
    parser.add_argument("--skip-existing", action="store_true", help="leave results that are there")
    parser.add_argument("--batch-size", type=int, default=1, help="images of one size at once")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, mps or auto")
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        help="package.module.Class that may be imported, as the checkpoint's network is of your own",
    )
    parser.add_argument(DEBUG, action="store_true", help="show the traceback of an error")
    parser.add_argument("--no-progress", action="store_true", help="do not show how far it is")
    options = parse_flags(parser, argv)
    check_at_least(options, batch_size=1, num_workers=0)
    if options.out is None:
        raise ConfigError("--out DIR is needed: the folder of the results")
    for name in ("png_scale", "sparse_scale"):
        if not 0 < options[name] < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} must be positive, in units per metre")
    if options.overwrite and options.skip_existing:
        raise ConfigError("--overwrite and --skip-existing: choose one of the two")
    near, far = options.preview_range or (1, 2)
    if not 0 < near < far < math.inf:
        raise ConfigError(f"--preview-range: 0 < NEAR < FAR is needed, in metres, got {near:g} {far:g}")
    return options


def _results(options: Namespace) -> Results:
    formats = [name.strip() for name in options.formats.split(",")]
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"--formats: no format {name!r}{did_you_mean(name, FORMATS)}")
    out = Path(options.out)
    check_folder("--out", out)
    preview_range = tuple(options.preview_range) if options.preview_range else None
    return Results(out, formats, options.png_scale, preview_range, options.skip_existing)


def _find(options: Namespace, results: Results) -> list[Picture]:
    """Return the images that are to be predicted."""
    try:
        found, others = find_pictures([Path(path) for path in options.paths], results.out)
    except DataError as error:
        raise ConfigError(str(error)) from error
    if others:
        counts = ", ".join(f"{suffix} {count}" for suffix, count in sorted(others.items()))
        log.info(
            "%s left out, as the suffix is of no image: %s", counted(sum(others.values()), "file"), counts
        )
    if not found:
        raise ConfigError(f"{', '.join(options.paths)}: no image in it")
    files = {picture: list(results.files(picture.name).values()) for picture in found}
    there = [file for group in files.values() for file in group if file.exists()]
    if there and options.skip_existing:
        found = [picture for picture, group in files.items() if not all(file.exists() for file in group)]
        log.info("%d of %d images have their results already", len(files) - len(found), len(files))
    elif there and not options.overwrite:
        raise ConfigError(
            f"--out {results.out}: {len(there)} of the files are there already, such as {there[0]}; "
            "--overwrite replaces them, --skip-existing leaves them, or choose another folder"
        )
    return found


def _sparse(options: Namespace, run: Run) -> Path | None:
    if options.sparse is None:
        if run.takes_input:
            log.info("the network has a branch for sparse depth, and gets none: give it by --sparse DIR")
        return None
    if run.takes_input is False:
        raise ConfigError(f"--sparse {options.sparse}: the network of {run.path} takes no sparse depth")
    if got := not_a_folder(options.sparse):
        raise ConfigError(f"--sparse {options.sparse}: got {got}, a folder is needed")
    return Path(options.sparse)


def _shape(resize: str | None, run: Run) -> tuple[int, int] | None:
    if resize is None:
        return None
    if resize == "training":
        return tuple(run.cfg.datasets.image_shape)
    size = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)", resize)
    if size is None:
        raise ConfigError(f"--resize {resize}: HxW is needed, such as 192x640, or training")
    return int(size[1]), int(size[2])


def _say_what(run: Run, count: int, shape: tuple[int, int] | None, multiple: int) -> None:
    log.info(
        "%s: %s%s, %s",
        run.name, run.path, " (running average)" if run.averaged else "", plural(run.epochs, "epoch"),
    )  # fmt: skip
    height, width = run.cfg.datasets.image_shape
    if shape is not None:
        log.info("images: %d, each resized to %dx%d and its depth back", count, *shape)
    else:
        log.info(
            "images: %d, each at its own size%s; the network was trained at %dx%d (--resize training)",
            count, f", padded to multiples of {multiple}" if multiple > 1 else "", height, width,
        )  # fmt: skip
    section, params = run.cfg.model.loss, run.cfg.model.params
    loss = build_loss(section, params.min_depth, params.max_depth, quiet=True).loss_func
    if all(term.align != "none" for term in loss.spec.terms):
        method = section.supervised_method.removeprefix("sparse-")
        log.warning("trained with %s, which leaves scale and shift open: the values are not metres", method)


def _pixels(found: dict[str, int]) -> tuple[str, str, str]:
    """Return the numbers of pixels and images, and the first image, of pixels by the name of their image."""
    return plural(sum(found.values()), "pixel"), plural(len(found), "image"), next(iter(found))


def _say_how(report: Report, results: Results, seconds: float) -> None:
    if report.turned:
        log.info(
            "EXIF orientation applied: %s, whose results are turned as well", plural(report.turned, "image")
        )
    if report.reduced:
        log.info("16 bits per channel reduced to 8: %s", plural(report.reduced, "image"))
    if report.nonfinite:
        log.warning(
            "not finite: %s of %s, such as %s; 0 in the PNG, grey in the preview",
            *_pixels(report.nonfinite),
        )  # fmt: skip
    if report.clipped:
        log.warning(
            "--png-scale %g: 16 bits hold %.3g to %.3f m; %s of %s, such as %s, beyond are "
            "written as the nearest of the two",
            results.png_scale, 1 / results.png_scale, MOST / results.png_scale,
            *_pixels(report.clipped),
        )  # fmt: skip
    texts = {
        "png": f"metres = value / {results.png_scale:g}, 0 = none",
        "npy": "metres, float32",
        "preview": "near is bright",
    }
    for kind in results.formats if report.done else ():
        folder, suffix = FORMATS[kind]
        log.info("%s: %s %s, %s", results.out / folder, plural(report.done, "file"), suffix, texts[kind])
    log.info("%s in %.1f s", plural(report.done, "image"), seconds)


if __name__ == "__main__":
    main()
