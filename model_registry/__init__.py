"""vLLM plugin: wavelet-position attention for paged inference. Importing this package imports nothing heavy."""
