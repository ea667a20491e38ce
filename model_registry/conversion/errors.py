"""What can be wrong with a checkpoint that is to be converted."""


class ConversionError(ValueError):
    """A source or an option that gives no wavelet checkpoint; the message is one line that names the value."""
