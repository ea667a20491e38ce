"""API keys: who asks, and how much they may use.

`file` reads the keys, `auth` finds the key of a request, `use` is one request's use of it, `limits` all keys' rates.
The entry of each request calls it; it imports `settings` and `errors`.
"""
