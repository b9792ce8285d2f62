"""Evaluate a trained network: `python evaluate.py CHECKPOINT [--baseline OTHER.ckpt] ...`, see `--help`."""

from depthloss.training.evaluation.cli import main

if __name__ == "__main__":
    main()
