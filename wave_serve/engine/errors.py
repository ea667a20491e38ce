"""What is wrong with a checkpoint."""

from wave_serve.errors import ExplainedError


class CheckpointError(ExplainedError, ValueError):
    """The directory is not a checkpoint that can be served; the message names the file, the field and the value."""
