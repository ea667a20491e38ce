"""OpenAI's completions: a prompt of text or tokens, in which single tokens may be cut away."""

from typing import ClassVar

from wave_serve.request.dialects.dialect import Dialect
from wave_serve.request.fields import CompletionRequest


class Completions(Dialect):
    """`/v1/completions`."""

    path: ClassVar = "/v1/completions"
    body: ClassVar = CompletionRequest
    param: ClassVar = "prompt"


COMPLETIONS = Completions()
