"""The OpenAPI document: FastAPI's, and the schemas of the bodies, which the gateway reads itself.

FastAPI would read a whole body before anything could bound it; so routes name their body with
`request_body`, and the schemas that it refers to are added here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.gateway.api.openai_schemas import ChatRequest, ImagesRequest
from service.gateway.api.schemas import ErrorDocument, GenerateRequest

_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (GenerateRequest, ChatRequest, ImagesRequest)

# For routers: every operation may end with these.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorDocument, "description": "Error"}
    for status in (400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 422, 429, 500, 503)
}
# For routes that stream if they are asked to.
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


def request_body(schema: type[BaseModel], *, form: bool = False) -> dict[str, Any]:
    """The `openapi_extra` of a route whose body has this schema."""
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": _REF.format(model=schema.__name__)}}
    }
    if form:
        content["multipart/form-data"] = {"schema": {"type": "object"}}
    return {"requestBody": {"required": True, "content": content}}


def install_openapi(app: FastAPI) -> None:
    """Have `app.openapi()` define the bodies' schemas."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(
                title=app.title,
                version="1",
                description="Interleaved text and images, in and out.",
                routes=app.routes,
            )
            schemas = app.openapi_schema["components"]["schemas"]
            for model in _BODIES:
                document = model.model_json_schema(ref_template=_REF)
                schemas |= document.pop("$defs", {})
                schemas[model.__name__] = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
