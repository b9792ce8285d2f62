"""Benchmarks: `python -m bench.FOLDER.NAME`, from the root of the repository."""
