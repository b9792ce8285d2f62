"""Predict depth: `python predict.py CHECKPOINT IMAGES... --out DIR`, see `--help`."""

from depthloss.training.prediction.cli import main

if __name__ == "__main__":
    main()
