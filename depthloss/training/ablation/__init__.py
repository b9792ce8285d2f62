"""Ablation studies: variants of one training, trained, evaluated and compared over seeds."""
