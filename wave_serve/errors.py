"""The one error type that becomes an HTTP answer, in OpenAI's shape."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, NotRequired

from pydantic import ConfigDict, NonNegativeInt, with_config
from typing_extensions import TypedDict

from wave_serve.headers import Header

CLIENT_CLOSED = 499  # logged, never read: nobody is there


class Code(StrEnum):
    """Every machine-readable reason of an error, with the statuses that it comes with; docs/clients.md explains each.

    Attributes:
        statuses: of the answers of documented endpoints; empty for what is no endpoint, or not known to be one yet.
    """

    statuses: tuple[int, ...]

    def __new__(cls, code: str, *statuses: int) -> "Code":
        """A member from its value and its statuses."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.statuses = statuses
        return member

    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded", 400
    INVALID_JSON = "invalid_json", 400
    NO_CHAT_TEMPLATE = "no_chat_template", 400
    MISSING_API_KEY = "missing_api_key", 401
    INVALID_API_KEY = "invalid_api_key", 401
    MODEL_NOT_ALLOWED = "model_not_allowed", 403
    MODEL_NOT_FOUND = "model_not_found", 404
    REQUEST_TIMEOUT = "request_timeout", 408
    REQUEST_TOO_LARGE = "request_too_large", 413
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded", 429
    CONCURRENCY_LIMIT_EXCEEDED = "concurrency_limit_exceeded", 429
    QUEUE_FULL = "queue_full", 429
    QUEUE_TIMEOUT = "queue_timeout", 429
    INTERNAL_ERROR = "internal_error", 500
    UPSTREAM_DIED = "upstream_died", 502
    UPSTREAM_MALFORMED = "upstream_malformed", 502
    UPSTREAM_REFUSED = "upstream_refused", 502
    UPSTREAM_UNAVAILABLE = "upstream_unavailable", 503
    LIMITS_UNAVAILABLE = "limits_unavailable", 503
    GATEWAY_STOPPING = "gateway_stopping", 503
    WORKER_DIED = "worker_died", 503
    UPSTREAM_TIMEOUT = "upstream_timeout", 504
    GENERATION_TIMEOUT = "generation_timeout", 504
    UPSTREAM_ERROR = "upstream_error", 500, 501, 502, 503, 504
    UNKNOWN_URL = "unknown_url"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_URL_TOO_LONG = "request_url_too_long"
    REQUEST_HEAD_TOO_LARGE = "request_head_too_large"


class ExplainedError(Exception):
    """A failure that whoever started the command can mend; the command line shows its message without a traceback."""


ErrorType = Literal[
    "authentication_error", "invalid_request_error", "permission_error", "rate_limit_error", "server_error"
]


class PromptLength(TypedDict):
    """Further members of an error with the code context_length_exceeded."""

    n_prompt_tokens: int
    n_ctx: int


@with_config(ConfigDict(use_attribute_docstrings=True))
class ErrorDetails(TypedDict):
    """What went wrong."""

    message: str
    type: ErrorType
    param: str | None
    """The field of the request at fault."""
    code: str | None
    """Machine-readable reason; each status names its own."""
    n_prompt_tokens: NotRequired[NonNegativeInt]
    """With context_length_exceeded: tokens of the longest prompt."""
    n_ctx: NotRequired[NonNegativeInt]
    """With context_length_exceeded: the cap that was exceeded."""


class Error(TypedDict):
    """The body of every error, in OpenAI's shape."""

    error: ErrorDetails


class ApiError(Exception):
    """An answer other than success.

    Args:
        status: HTTP status.
        message: for the person who reads it; names field and value.
        param: the field of the request at fault.
        code: machine-readable reason.
        headers: further response headers, e.g. retry-after.
        length: members of the error object that tell the prompt's length.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: Code | None = None,
        headers: Mapping[str, str] | Mapping[Header, str] | None = None,
        length: PromptLength | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = error_type(status)
        self.param = param
        self.code = code
        self.headers: dict[str, str] = {str(name): value for name, value in (headers or {}).items()}
        self.length = length

    def body(self) -> Error:
        """The JSON body."""
        error: ErrorDetails = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error if self.length is None else {**error, **self.length}}


class ContextExceededError(ApiError):
    """A request over its cap.

    Args:
        prompt_tokens: length of the longest prompt.
        completion_tokens: longest completion that was asked for, or 1.
        limit: the cap on both together.
        param: the field that holds the prompt.
        at_least: whether the prompt's length is a lower bound, not a count.
    """

    def __init__(
        self, prompt_tokens: int, completion_tokens: int, limit: int, param: str, *, at_least: bool = False
    ) -> None:
        bound = "at least " if at_least else ""
        message = (
            f"This model's maximum context length is {limit} tokens. However, you requested "
            f"{bound}{prompt_tokens + completion_tokens} tokens ({bound}{prompt_tokens} in the prompt, "
            f"{completion_tokens} for the completion). Please reduce the length of the {param} or completion."
        )
        length: PromptLength = {"n_prompt_tokens": prompt_tokens, "n_ctx": limit}
        super().__init__(400, message, param=param, code=Code.CONTEXT_LENGTH_EXCEEDED, length=length)
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.limit = limit


def error_type(status: int) -> ErrorType:
    """OpenAI's error type for an HTTP status."""
    match status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
        case _ if status < 500:
            return "invalid_request_error"
        case _:
            return "server_error"


def invalid(message: str, param: str | None = None, code: Code | None = None) -> ApiError:
    """A 400 that names the field at fault."""
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str, retry_after: int) -> ApiError:
    """A 503 with the seconds after which another try makes sense."""
    return ApiError(503, message, code=Code.UPSTREAM_UNAVAILABLE, headers={Header.RETRY_AFTER: str(retry_after)})


def too_many(message: str, wait: float, code: Code) -> ApiError:
    """A 429 with the seconds after which another try makes sense."""
    return ApiError(429, message, code=code, headers=retry_headers(wait))


def retry_headers(seconds: float) -> dict[str, str]:
    """`retry-after` in whole seconds, at least 1, and `retry-after-ms` beside it for clients that read it."""
    seconds = round(seconds, 6)  # or an error in the last digit would round up to a whole second
    return {
        Header.RETRY_AFTER: str(max(1, math.ceil(seconds))),
        Header.RETRY_AFTER_MS: str(max(1, math.ceil(seconds * 1000))),
    }
