"""What a user can get wrong about a training run."""


class TrainingError(ValueError):
    """A request that no training run can follow; the message is one line that names the value."""
