"""Networks: building, tracing, freezing and batch-norm folding."""
