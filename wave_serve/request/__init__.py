"""What was sent: reads, parses and checks a request's body, and notices when its client goes away.

The endpoints, the fitting to the cap and the truncation use it. It imports `worker`, `settings` and `errors`.
"""
