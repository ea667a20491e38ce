"""What stops an evaluation; each message is one line for the person who started it."""


class EvalError(Exception):
    """An evaluation cannot go on; what was measured so far is kept."""


class OptionError(EvalError):
    """An option of the command line, or a variable of the environment; the message names it and says what is wrong."""


class LengthError(EvalError):
    """A length that cannot be read or that an endpoint or a text cannot give; the message holds it."""


class TextError(EvalError):
    """A text that cannot be read or is too short; the message names it."""


class OutputError(EvalError):
    """The output directory or a package that the output needs; the message names it."""


class EndpointError(EvalError):
    """An endpoint that does not answer as asked; the message names it. `status` is its HTTP status, if it gave one."""

    def __init__(self, endpoint: str, message: str, status: int | None = None) -> None:
        super().__init__(f"endpoint {endpoint}: {message}")
        self.status = status


class NoLogProbabilitiesError(EndpointError):
    """The endpoint gives no log-probabilities of a prompt's tokens."""
