"""The body of a response, as far as it is checked."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, WithJsonSchema

from wave_serve.request.fields import SampledBody, about
from wave_serve.request.shapes import TEXT, nullable
from wave_serve.request.types import (
    Must,
    NaturalOrAll32,
    Object,
    Objects,
    Positive,
    StringOrObject,
    Strings,
    StringsByName,
)

ITEM = {
    "type": "object",
    "properties": {
        "type": nullable(TEXT),
        "role": nullable(TEXT),
        "content": {"anyOf": [TEXT, {"type": "array"}, {"type": "null"}]},
    },
    "additionalProperties": True,
}
INPUT = WithJsonSchema(
    {
        "description": "A user's message, or messages, calls of tools and their outputs. Only text.",
        "anyOf": [{**TEXT, "minLength": 1}, {"type": "array", "minItems": 1, "items": ITEM}],
    }
)
Truncates = Annotated[Literal["auto", "disabled"], Must("be one of auto, disabled")]


class ResponsesRequest(SampledBody):
    """The body of a response."""

    model_config = ConfigDict(json_schema_extra={"required": ["input"]})

    input: Annotated[Any, INPUT] = None
    instructions: str | None = about("A system message before the input; never cut away.")
    max_output_tokens: Positive | None = about("Longest answer, in tokens; by default what is left up to a limit.")
    truncation: Truncates | None = about(
        "auto: an input over the cap is cut by the model's policy, or at its head where that is to reject; "
        "disabled: it is refused. `overflow` goes before it."
    )
    tools: Objects | None = about("Functions that the model may call.")
    tool_choice: StringOrObject | None = about("Which tool to call.")
    parallel_tool_calls: bool | None = about("Several tool calls in one answer.")
    text: Object | None = about("Format of the answer.")
    reasoning: Object | None = about("How long the model reasons, where it does.")
    include: Strings | None = about("What else to answer with.")
    include_reasoning: bool | None = about("Reasoning beside the answer.")
    top_logprobs: NaturalOrAll32 | None = about("Log-probabilities of so many tokens at each position; -1 for all.")
    metadata: StringsByName | None = about("Repeated in the answer.")
    store: bool | None = about("Keep the response; by default where the engine has a store, true needs one.")
    background: bool | None = about("Answer at once and go on working, where the engine has a store.")
    previous_response_id: str | None = about("The stored response that the input goes on from.")
    chat_template_kwargs: Object | None = about("Arguments of the chat template.")

    def completion_limit(self) -> tuple[str, int | None]:
        """The field max_output_tokens."""
        return "max_output_tokens", self.max_output_tokens
