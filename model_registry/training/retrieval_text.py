"""The words of retrieval episodes; the pass key's are those that ``wave-serve eval passkey`` asks with."""

from __future__ import annotations

NAMES = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "iris", "jade", "kite", "lotus")
NOTE = "\n# Note:\n"
NOTE_END = "\n"
NOTE_AGAIN = "\n# The note was:\n"


def hidden_key(key: str) -> str:
    """The line that tells the pass key, e.g. ``4 8 1 5 2``."""
    return f"\n# The pass key is {key}. Remember it.\n"


def key_question() -> str:
    """The line that asks for it, up to the answer."""
    return "\n# What is the pass key? The pass key is"


def entry(name: str, code: str) -> str:
    """The line that tells the code of a name."""
    return f"\n# The code of {name} is {code}.\n"


def entry_question(name: str) -> str:
    """The line that asks for it, up to the answer."""
    return f"\n# What is the code of {name}? The code of {name} is"


def answer(digits: str) -> str:
    """What has to follow a question."""
    return f" {digits}"
