"""The feature cache: outputs of frozen layers, computed once."""
