"""Wavelet attention inside vLLM: the model, the attention backend, and its implementations for CPUs and GPUs.

vLLM imports ``model`` and ``backend`` by the names that ``model_registry.register`` gives it. Only these files import
vllm; they may import ``model_registry.attention`` and ``model_registry.positions``.
"""
