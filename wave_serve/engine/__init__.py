"""The vLLM server that `wave-serve serve` starts and watches, and the checkpoint that it serves.

Only `run` calls it (and `eval` reads a checkpoint's lengths). It imports `settings`, `upstream`, `cores` and `logs`.
"""
