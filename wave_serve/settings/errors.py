"""What is wrong with a settings file."""

from wave_serve.errors import ExplainedError


class SettingsError(ExplainedError, ValueError):
    """The settings file cannot be used; the message names file, position and reason, one mistake a line."""
