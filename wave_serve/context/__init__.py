"""Which model a request is for, and whether it fits: the cap, the zones of trust, truncation and the decision.

Generation and preflight call `fitting`. It imports `tokens`, `routing` (to ask any upstream), `request`, `upstream`.
"""
