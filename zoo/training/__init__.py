"""Training: from an experiment to a finished run."""
