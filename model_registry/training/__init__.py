"""Trains a small model from scratch: ``wave-serve train`` or ``python -m model_registry.training``.

Both call ``cli.train``. It may import the config, the dense Hugging Face model and ``model_registry.positions``; it
needs neither the plugin nor the attention op.
"""
