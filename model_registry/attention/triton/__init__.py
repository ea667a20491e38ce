"""``impl="triton"``: the GPU kernels, one for decode and one for prompts, and what chooses their tiles.

``model_registry.attention.api`` calls ``op.attention`` and the vLLM plugin ``op.paged_attention``. It may import torch,
triton and ``attention.arguments``, and no other implementation.
"""
