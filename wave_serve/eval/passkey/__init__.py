"""Pass keys: a key hidden in filler at several depths and lengths, and asked for. `run` is the evaluation."""
