"""Data: images are opened, split, decoded and augmented."""
