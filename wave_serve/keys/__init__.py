"""API keys: who asks, and how much they may use.

`file` reads the keys, `auth` finds the key of a request, `use` is one request's use of it. What all keys use is counted
by `limits` in this process, or by `shared` and the scripts beside it in a `store` that several gateways ask.
The entry of each request calls it; it imports `settings` and `errors`.
"""
