"""Storage: files that are written completely or not at all, a folder's lock, and caches on disk."""
