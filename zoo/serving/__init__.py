"""Serving: a verified exported file behind HTTP. Nothing here imports torch."""
