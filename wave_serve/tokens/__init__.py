"""How many tokens a prompt has: counted here where the checkpoint's tokenizer is at hand, else by an upstream.

The catalogue keeps a `counter` for each model, and the fitting asks it. It imports `upstream`, `worker` and `request`.
"""
