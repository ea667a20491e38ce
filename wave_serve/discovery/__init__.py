"""Finds upstreams that come and go: by DNS (`names`) or in a file (`listed`), looked up again and again (`discovery`).

Routing's pool takes what it finds. It imports `settings`, `errors` and `logs`.
"""
