"""Runs: the folder of one training run."""
