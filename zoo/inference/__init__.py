"""Inference: models opened, images classified."""
