"""The OpenAPI document: what FastAPI derives, plus the bodies that we read ourselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.gateway.api.chat_schemas import ChatRequest, ImagesRequest
from service.gateway.api.schemas import ErrorDocument, GenerateRequest

_BODIES: dict[str, type[BaseModel]] = {
    "/v1/generate": GenerateRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/images/generations": ImagesRequest,
}
_STREAMED = frozenset({"/v1/generate", "/v1/chat/completions"})
_ERRORS = (400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 422, 429, 500, 503)
_REF = "#/components/schemas/{model}"


def _reference(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, str]:
    """A reference to a model's schema, which is added to the components."""
    document = model.model_json_schema(ref_template=_REF)
    schemas.update(document.pop("$defs", {}))
    schemas[model.__name__] = document
    return {"$ref": _REF.format(model=model.__name__)}


def install_openapi(app: FastAPI) -> None:
    """Make `app.openapi()` complete."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version="1",
        description="Interleaved text and images, in and out.",
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}, {}]
    error = {"application/json": {"schema": _reference(ErrorDocument, schemas)}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            for status in _ERRORS:
                operation["responses"][str(status)] = {"description": "Error", "content": error}
        if path in _BODIES:
            _add_body(operations["post"], _reference(_BODIES[path], schemas), path)
    return document


def _add_body(operation: dict[str, Any], schema: dict[str, str], path: str) -> None:
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    answer = operation["responses"]["200"]
    if path in _STREAMED:
        answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    if path == "/v1/generate":
        content["multipart/form-data"] = {"schema": {"type": "object"}}
        accepted = dict(answer, description="Accepted", content=dict(answer["content"]))
        operation["responses"]["202"] = accepted
    operation["requestBody"] = {"required": True, "content": content}
