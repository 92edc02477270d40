"""Evaluation: scores, intervals and significance tests."""
