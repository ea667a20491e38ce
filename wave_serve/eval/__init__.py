"""Measures a model by length through any OpenAI-compatible endpoint: loss per token and passkey retrieval."""
