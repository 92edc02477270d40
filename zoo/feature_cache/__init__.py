"""The feature cache: outputs of frozen layers, which are computed once and read from disk afterwards."""
