"""What the gateway does with an answer besides passing it on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Handling:
    """What is done with one answer on its way to the client.

    Attributes:
        on_usage: is told the prompt tokens of a complete answer, where its usage has them.
        on_part: is given the JSON value of a whole answer, or of each event of a stream.
        hide_usage: keep a stream's usage from the client, which did not ask for it.
        echoed_prefix: is cut from the beginning of an echo: special tokens that the client did not send.
        held_to_grammar: an upstream's 500 says that the answer cannot follow its grammar, now or later; vLLM answers
            503 to what may be tried again.
    """

    on_usage: Callable[[int], None] | None = None
    on_part: Callable[[Any], None] | None = None
    hide_usage: bool = False
    echoed_prefix: str = ""
    held_to_grammar: bool = False
