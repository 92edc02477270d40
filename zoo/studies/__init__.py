"""Studies: many trials, compared."""
