"""Train a depth network: `python train.py CONFIG.yaml [--dotted.key value ...]`, see `--help`."""

import sys

try:
    from depthloss.training.cli import main
except ModuleNotFoundError as error:
    print(f"train.py: error: {error}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    main()
