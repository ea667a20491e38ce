"""What can be read with GET can be asked for with HEAD: the same status and headers, and no body."""

from typing import Any

from fastapi.routing import APIRoute


class ReadableRoute(APIRoute):
    """A route that takes HEAD beside GET, as Starlette's own routes do; the server leaves the body out."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        if "GET" in self.methods:
            self.methods.add("HEAD")
