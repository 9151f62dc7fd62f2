"""Judging a frozen encoder: features, kNN, linear probe, baselines, report."""
