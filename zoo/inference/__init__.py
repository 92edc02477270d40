"""Inference: opening models and classifying images."""
