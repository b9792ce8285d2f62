"""Evaluate any depth pipeline of Hugging Face on a folder of pictures with ground truth.

python examples/evaluate_pipeline.py MODEL PICTURES GT OUT

MODEL is a name such as depth-anything/Depth-Anything-V2-Small-hf, whose pipeline (pip install transformers)
predicts disparity; a metric model needs kinds="depth".
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from depthloss.protocols import load_protocol
from depthloss.training.evaluation.maps import evaluate_maps
from depthloss.training.evaluation.report.files import write_files
from depthloss.training.evaluation.result import Evaluation
from depthloss.training.evaluation.tables import text_tables


def run(pipe: Callable[[Image.Image], Any], pictures: Path, gt: Path, out: Path) -> list[Evaluation]:
    """Write what a pipeline predicts to OUT/maps, and its tables and report to OUT/evaluation."""
    maps = out / "maps"
    maps.mkdir(parents=True)
    for path in sorted(pictures.iterdir()):
        depth = pipe(Image.open(path).convert("RGB"))["predicted_depth"]
        np.save(maps / f"{path.stem}.npy", depth.squeeze().cpu().numpy())
    found = evaluate_maps({"model": maps}, gt, load_protocol("marigold"), kinds="disparity", rgb=pictures)
    print(text_tables(found))
    write_files(out / "evaluation", found)
    return found


if __name__ == "__main__":
    from transformers import pipeline

    run(pipeline("depth-estimation", model=sys.argv[1]), *map(Path, sys.argv[2:5]))
