"""The one error type that becomes an HTTP answer, in OpenAI's shape."""

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

CLIENT_CLOSED = 499  # logged, never read: nobody is there


class ApiError(Exception):
    """An answer other than success.

    Args:
        status: HTTP status.
        message: for the person who reads it; names field and value.
        type: OpenAI's error type; by default from the status.
        param: the field of the request at fault.
        code: machine-readable reason.
        headers: further response headers, e.g. retry-after.
        extra: further members of the error object.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,  # noqa: A002 - OpenAI's name
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or error_type(status)
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def body(self) -> dict[str, Any]:
        """The JSON body: {"error": {...}}."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code, **self.extra}
        return {"error": error}

    def response(self) -> Response:
        """The HTTP answer."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def error_type(status: int) -> str:
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


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 that names the field at fault."""
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str, retry_after: int) -> ApiError:
    """A 503 with the seconds after which another try makes sense."""
    return ApiError(503, message, code="upstream_unavailable", headers={"retry-after": str(retry_after)})


def too_many(message: str, wait: float, code: str) -> ApiError:
    """A 429 with the seconds after which another try makes sense."""
    return ApiError(429, message, code=code, headers=retry_headers(wait))


def retry_headers(seconds: float) -> dict[str, str]:
    """`retry-after` in whole seconds, at least 1, and `retry-after-ms` beside it for clients that read it."""
    seconds = round(seconds, 6)  # or an error in the last digit would round up to a whole second
    return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(max(1, math.ceil(seconds * 1000)))}
