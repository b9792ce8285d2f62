"""Evaluation of a trained network: metrics, tables, pictures; the command is `evaluate.py`."""
