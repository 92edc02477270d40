"""Configuration: a strategy's text and an experiment's names, resolved."""
