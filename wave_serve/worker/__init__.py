"""A process of its own for large bodies, so that the event loop stays free to answer others.

`process` is the gateway's side of it, `operations` what it does, `__main__` the process itself, `cores` how many
processor cores there are for it and for the engine.
The catalogue and the parsing of bodies call it; it imports nothing of the gateway but `errors`.
"""
