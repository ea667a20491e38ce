"""What a user can get wrong about a training run."""


class TrainingError(ValueError):
    """A training run cannot be done as it was asked for; the message is one line that names the value."""
