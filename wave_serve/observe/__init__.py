"""What is seen of a request once it is over: the access log, metrics and spans. Nothing of a prompt is in them.

The application wraps every request in `access_log`. It imports `exchange`, `routing` and `upstream`.
"""
