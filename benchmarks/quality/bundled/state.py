"""What the worker processes inherit: ``rows`` (TaskRows) and ``length`` (tokens per training row)."""

SHARED: dict = {}
