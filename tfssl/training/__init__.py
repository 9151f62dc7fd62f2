"""Strategies, checkpoints and monitors of a training run."""
