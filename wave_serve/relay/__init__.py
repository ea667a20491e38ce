"""The answer on its way back: fetched from an upstream while it is sent, whole events only, ended by an error event.

The endpoints return a `Relay`. It imports `routing`, `observe`, `upstream`, `request` and `exchange`.
"""
