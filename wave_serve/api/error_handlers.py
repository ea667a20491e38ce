"""The one place where errors, the application's and the framework's, become HTTP answers."""

from http import HTTPStatus
from typing import cast

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from wave_serve.errors import CLIENT_CLOSED, ApiError, Code
from wave_serve.exchange import exchange_of
from wave_serve.request.dialects import dialect_at
from wave_serve.request.presence import ClientGoneError


def install_error_handlers(app: FastAPI) -> None:
    """Every error of `app`, its own and the framework's, is answered in OpenAI's shape."""

    async def api_error(request: Request, error: Exception) -> Response:
        return _answer(request, cast("ApiError", error))

    async def http_error(request: Request, error: Exception) -> Response:
        error = cast("HTTPException", error)
        what = f"{request.method} {request.url.path}"
        if error.status_code == HTTPStatus.NOT_FOUND:
            return _answer(request, ApiError(404, f"Invalid URL ({what})", code=Code.UNKNOWN_URL))
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            message = f"Not allowed to {what}"
            return _answer(request, ApiError(405, message, code=Code.METHOD_NOT_ALLOWED, headers=error.headers))
        return _answer(request, ApiError(error.status_code, str(error.detail), headers=error.headers))

    async def unexpected(request: Request, _error: Exception) -> Response:
        # The server hangs up after it; unwarned, a client would send its next request into the closing connection.
        close = {"connection": "close"}
        message = "The gateway failed to handle this request."
        return _answer(request, ApiError(500, message, code=Code.INTERNAL_ERROR, headers=close))

    async def client_gone(request: Request, _error: Exception) -> Response:
        exchange_of(request).client_left()
        return Response(status_code=CLIENT_CLOSED)

    app.add_exception_handler(ApiError, api_error)
    for gone in (ClientDisconnect, ClientGoneError):
        app.add_exception_handler(gone, client_gone)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)


def _answer(request: Request, error: ApiError) -> Response:
    exchange_of(request).failed(error)
    return dialect_at(request.url.path).error_answer(error)
