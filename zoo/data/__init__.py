"""Images: opened, split, decoded, augmented."""
