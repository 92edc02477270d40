"""Advice: backbones and strategies recommended before training."""
