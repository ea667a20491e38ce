"""What vLLM's own types of requests say of a body, so that a fake upstream can be as strict as an engine."""

import json
from collections.abc import Mapping
from typing import Any

from helpers.fake_upstream import Connection, Handler, reply_json
from pydantic import TypeAdapter, ValidationError
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest
from vllm.exceptions import VLLMValidationError

TYPES: Mapping[str, Any] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": AnthropicMessagesRequest,
    "/v1/messages/count_tokens": AnthropicCountTokensRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}


def refusal(path: str, body: bytes) -> str | None:
    """Why vLLM would answer the body with 400; None where its types take it."""
    try:
        request = TypeAdapter(TYPES[path]).validate_python(json.loads(body))
        if path in ("/v1/completions", "/v1/chat/completions"):
            request.to_sampling_params(2**31 - 1, {})
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, one['loc'][:3]))}: {one['msg']}" for one in error.errors()[:5])
    except (ValueError, VLLMValidationError) as error:
        return str(error)
    return None


def strict(path: str, answer: Handler) -> Handler:
    """The answer, to bodies that vLLM takes."""

    async def handle(connection: Connection) -> None:
        wrong = refusal(path, connection.body)
        refused = reply_json({"error": {"message": wrong, "code": 400}}, "400 Bad Request")
        await (answer if wrong is None else refused)(connection)

    return handle
