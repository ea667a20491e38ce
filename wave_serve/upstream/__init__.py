"""One vLLM server: whether it is ready and what it serves (`upstream`), and requests to it (`client`).

Routing chooses among upstreams; counting, the catalogue and the relay ask them.
It imports `settings`, `errors` and `logs`.
"""
