"""What is wrong with a checkpoint, or with how its engine is to be started."""

from wave_serve.errors import ExplainedError


class CheckpointError(ExplainedError, ValueError):
    """The directory is not a checkpoint that can be served; the message names the file, the field and the value."""


class EngineSetupError(ExplainedError, ValueError):
    """The engine cannot be started as asked; the message names the option and its value."""
