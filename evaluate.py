"""Evaluate a trained network: `python evaluate.py CHECKPOINT [--baseline OTHER.ckpt] ...`, see `--help`."""

import sys

try:
    from depthloss.training.evaluation.cli import main
except ModuleNotFoundError as error:
    print(f"evaluate.py: error: {error}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    main()
