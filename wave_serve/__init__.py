"""OpenAI-compatible policy gateway with context caps. Imports neither torch nor vllm nor model_registry."""
