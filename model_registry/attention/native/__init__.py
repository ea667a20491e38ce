"""``impl="cpu"``: a C++ kernel in csrc/, compiled at first use, that reads the paged cache where it lies.

``model_registry.attention.api`` calls ``op.attention``. It may import torch and ``attention.arguments``, and no other
implementation.
"""
