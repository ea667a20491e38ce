"""To which upstream a request goes, and when: admission, choice, retries, and the end of all at SIGTERM.

The gateway builds it; the relay runs generations through `dispatch`. It imports `upstream`, `request` and `exchange`.
"""
