"""Perplexity: the loss of every token of texts, by the length of what stands before it. `run` is the evaluation."""
