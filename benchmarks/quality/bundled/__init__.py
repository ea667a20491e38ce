"""Trains the bundled model on one GPU."""
