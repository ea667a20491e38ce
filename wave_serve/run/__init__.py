"""The process: its socket, connections and signals, the engine beside it, and the reload of its files.

The command line calls `serve`. It imports `api`, `gateway`, `engine` and what they hold.
"""
