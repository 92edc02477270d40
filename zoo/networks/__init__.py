"""Networks: built, traced, frozen, folded."""
