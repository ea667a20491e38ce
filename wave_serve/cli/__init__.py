"""What a person types: `wave-serve serve`, `gateway`, `keys`, `config`, `eval`, and the commands of other packages.

Nobody imports it. It imports `run`, `settings`, `keys` and, only where it is called, `eval`.
"""
