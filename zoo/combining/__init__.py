"""Runs that are made of other runs: a soup of their weights, an ensemble of their probabilities."""
