"""To which upstream a request goes, and when: which there are (`pool`), admission, choice, retries, the end at SIGTERM.

The gateway builds it; the relay runs generations through `dispatch`. It imports `discovery`, `upstream`, `request` and
`exchange`.
"""
