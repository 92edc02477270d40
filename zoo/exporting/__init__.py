"""Export: files written, compared with their run, verified."""
