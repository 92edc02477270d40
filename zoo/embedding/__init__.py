"""Embedding: features of images by a frozen backbone, in files, for the nearest images, and to choose what to label."""
