"""Predict depth: `python predict.py CHECKPOINT IMAGES... --out DIR`, see `--help`."""

import sys

try:
    from depthloss.training.prediction.cli import main
except ModuleNotFoundError as error:
    print(f"predict.py: error: {error}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    main()
