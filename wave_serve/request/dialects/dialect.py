"""What one API of generations is to the gateway: its path, its fields, its errors and its stream."""

import json
from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar

from starlette.responses import JSONResponse, Response

from wave_serve.errors import ApiError, invalid
from wave_serve.request.fields import StreamedBody, check_fields
from wave_serve.request.generation import Generation
from wave_serve.request.schemas import check_schemas

UNCOUNTABLE = ("truncate_prompt_tokens", "prompt_embeds", "suffix", "previous_input_messages")


class Dialect(ABC):
    """One API. Its instances hold no state; OpenAI's completions are the defaults.

    Attributes:
        path: of its endpoint, here and at an upstream.
        body: the fields of its bodies that are checked.
        param: the field that holds the prompt.
        policy_fields: addressed to the gateway alone; no upstream sees them.
        preamble: types of a stream's events that come before the first token.
        last_events: types of the events of which one ends a complete stream; `data: [DONE]` always does.
        usage_inside: the member of a stream's event that may hold the usage in the event's place.
    """

    path: ClassVar[str]
    body: ClassVar[type[StreamedBody]]
    param: ClassVar[str]
    policy_fields: ClassVar[tuple[str, ...]] = ("overflow",)
    preamble: ClassVar[frozenset[str]] = frozenset()
    last_events: ClassVar[frozenset[str]] = frozenset()
    usage_inside: ClassVar[str | None] = None

    def read(self, payload: Mapping[str, Any]) -> Generation:
        """What the cap's policy needs of a body. Raises ApiError 400 naming field and value."""
        fields = check_fields(payload, self.body)
        for field in UNCOUNTABLE:
            if payload.get(field) is not None:
                raise invalid(f"{field} is not supported: its tokens could not be counted against the cap", field)
        check_schemas(payload)
        limit_field, limit = fields.completion_limit()
        return Generation(
            payload,
            self,
            n=fields.completions(),
            max_tokens=limit,
            max_tokens_field=limit_field,
            stream=bool(fields.stream),
            overflow=fields.overflow,
            min_tokens=fields.least_completion(),
        )

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """An error as this API's clients read it."""
        return dict(error.body())

    def error_answer(self, error: ApiError) -> Response:
        """The HTTP answer of an error."""
        return JSONResponse(self.error_body(error), status_code=error.status, headers=error.headers)

    def error_event(self, error: ApiError) -> bytes:
        """The event that ends a stream with an error."""
        return b"data: " + json.dumps(self.error_body(error), ensure_ascii=False).encode() + b"\n\n"

    def ends(self, event: Any) -> bool:
        """Whether an event of a stream is the last of a complete answer."""
        return kind_of(event) in self.last_events

    def has_token(self, event: Any) -> bool:
        """Whether an event of a stream may hold a token, as opposed to one that only says that work has begun."""
        return kind_of(event) not in self.preamble

    def told(self, part: Any) -> Any:
        """What a whole answer, or an event of its stream, tells of tokens and its end, named as in a chat."""
        return part


def kind_of(event: Any) -> str:
    """The `type` of a stream's event; empty where it has none."""
    kind = event.get("type") if isinstance(event, dict) else None
    return kind if isinstance(kind, str) else ""
