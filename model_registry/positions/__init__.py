"""Relative positions as pure mathematics: wavelet tables, ALiBi's slopes, log-length scaling of logits.

The Hugging Face config and model, the vLLM plugin and the trainer call it. It may import torch, numpy and PyWavelets,
and nothing else of this package.
"""
