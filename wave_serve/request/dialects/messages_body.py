"""The bodies of Anthropic's messages and of their count, as far as they are checked."""

from typing import Annotated, Any

from pydantic import ConfigDict, WithJsonSchema

from wave_serve.request.fields import Body, StreamedBody, about
from wave_serve.request.shapes import ANYTHING, TEXT, having, nullable
from wave_serve.request.types import Must, Object, Objects, Positive, Strings

BLOCKS = {"type": "array", "items": having(["type"], type=TEXT)}
MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["user", "assistant", "system"], **TEXT}, "content": {"anyOf": [TEXT, BLOCKS]}},
    "additionalProperties": True,
}
MESSAGES = WithJsonSchema({"type": "array", "minItems": 1, "items": MESSAGE, "description": "Only of text."})
TOOL = having(["name", "input_schema"], name=TEXT, description=nullable(TEXT), input_schema=ANYTHING)
BLOCK = having(["type"], type={"const": "text"})
SYSTEM = WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": BLOCK}]})
THINKING = WithJsonSchema(
    {
        "anyOf": [
            having(["type"], type={"enum": ["disabled", "adaptive"]}),
            having(
                ["type", "budget_tokens"],
                type={"const": "enabled"},
                budget_tokens={"type": "integer", "minimum": 1024},
            ),
        ]
    }
)
TOOL_CHOICE = WithJsonSchema(
    {
        "anyOf": [
            having(["type"], type={"enum": ["auto", "any", "none"]}),
            having(["type", "name"], type={"const": "tool"}, name={"type": "string", "minLength": 1}),
        ]
    }
)
TOOLS = WithJsonSchema({"type": "array", "items": TOOL})
System = Annotated[str | Objects, Must("be a string or a list of blocks")]


class CountedMessages(Body):
    """The fields that decide the tokens of Anthropic's messages."""

    model_config = ConfigDict(json_schema_extra={"required": ["messages"]})

    messages: Annotated[Any, MESSAGES] = None
    system: Annotated[System, SYSTEM] | None = about("Before the messages; never cut away.")
    tools: Annotated[Objects, TOOLS] | None = about("Tools that the model may use.")
    tool_choice: Annotated[Object, TOOL_CHOICE] | None = about("Which tool to use.")
    thinking: Annotated[Object, THINKING] | None = about("How long the model reasons, where it does.")
    output_config: Object | None = about("Format and effort of the answer.")
    chat_template_kwargs: Object | None = about("Arguments of the chat template.")


class MessagesRequest(StreamedBody, CountedMessages):
    """The body of Anthropic's messages."""

    max_tokens: Positive | None = about("Longest answer, in tokens; by default what is left up to a limit.")
    stop_sequences: Strings | None = about("Ends the answer before one of these texts.")
    metadata: Object | None = about("Kept for compatibility; neither read nor logged.")

    def completion_limit(self) -> tuple[str, int | None]:
        """The field max_tokens."""
        return "max_tokens", self.max_tokens
