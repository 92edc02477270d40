"""Faults of data, found before training: reported, ranked and drawn, never deleted."""
