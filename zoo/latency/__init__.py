"""Latency: interleaved measurements of runs and exported files."""
