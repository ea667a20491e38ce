"""Train a small wavelet model from scratch: ``wave-serve train`` or ``python -m model_registry.training``."""
