"""The interactive documentation, which may ask for a key: FastAPI's own routes would not."""

from fastapi import APIRouter, Depends, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import JSONResponse, Response

from wave_serve.api.entry import enter, gateway_of
from wave_serve.api.openapi.document import document
from wave_serve.api.readable import ReadableRoute

OPENAPI_PATH = "/openapi.json"
router = APIRouter(dependencies=[Depends(enter)], include_in_schema=False, route_class=ReadableRoute)


@router.get(OPENAPI_PATH)
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return JSONResponse(document(gateway_of(request).auth.asks))


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Swagger UI."""
    return get_swagger_ui_html(openapi_url=OPENAPI_PATH, title=request.app.title)
