"""Train a depth network: `python train.py CONFIG.yaml [--dotted.key value ...]`, see `--help`."""

from depthloss.training.cli import main

if __name__ == "__main__":
    main()
