"""The one error type that becomes an HTTP answer, in OpenAI's shape."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from wave_serve.exchange import exchange_of
from wave_serve.presence import ClientGoneError

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


def install_error_handlers(app: FastAPI) -> None:
    """Every error of `app`, its own and the framework's, is answered in OpenAI's shape."""

    async def api_error(request: Request, error: Exception) -> Response:
        return _answer(request, cast("ApiError", error))

    async def http_error(request: Request, error: Exception) -> Response:
        error = cast("HTTPException", error)
        what = f"{request.method} {request.url.path}"
        if error.status_code == HTTPStatus.NOT_FOUND:
            return _answer(request, ApiError(404, f"Invalid URL ({what})", code="unknown_url"))
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            message = f"Not allowed to {what}"
            return _answer(request, ApiError(405, message, code="method_not_allowed", headers=error.headers))
        return _answer(request, ApiError(error.status_code, str(error.detail), headers=error.headers))

    async def unexpected(request: Request, _error: Exception) -> Response:
        # The server hangs up after it; unwarned, a client would send its next request into the closing connection.
        close = {"connection": "close"}
        message = "The gateway failed to handle this request."
        return _answer(request, ApiError(500, message, code="internal_error", headers=close))

    async def client_gone(request: Request, _error: Exception) -> Response:
        exchange_of(request).aborted = True
        return Response(status_code=CLIENT_CLOSED)

    app.add_exception_handler(ApiError, api_error)
    for gone in (ClientDisconnect, ClientGoneError):
        app.add_exception_handler(gone, client_gone)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)


def _answer(request: Request, error: ApiError) -> Response:
    exchange_of(request).error = error.code or error.type
    return error.response()
