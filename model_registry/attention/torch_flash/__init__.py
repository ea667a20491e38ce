"""``impl="torch"``: the op from PyTorch's own flash attention on CPUs, where no native library can be built.

``model_registry.attention.api`` calls ``op.attention``. It may import torch and ``attention.arguments``, and no other
implementation.
"""
