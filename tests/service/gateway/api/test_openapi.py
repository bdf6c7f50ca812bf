"""The OpenAPI document is complete."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.config import GatewaySettings
from service.gateway.app import create_app


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(GatewaySettings(auth="off")).openapi()


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*(references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(references(value) for value in node))
    return set()


def test_every_reference_leads_to_a_schema(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    found = references(document)

    assert {reference.removeprefix("#/components/schemas/") for reference in found} <= set(schemas)
    assert "HTTPValidationError" not in schemas
    json.dumps(document)


@pytest.mark.parametrize(
    ("path", "schema", "types"),
    [
        ("/v1/generate", "GenerateRequest", {"application/json", "multipart/form-data"}),
        ("/v1/chat/completions", "ChatRequest", {"application/json"}),
        ("/v1/images/generations", "ImagesRequest", {"application/json"}),
    ],
)
def test_bodies(document: dict[str, Any], path: str, schema: str, types: set[str]) -> None:
    body = document["paths"][path]["post"]["requestBody"]

    assert body["required"] and set(body["content"]) == types
    reference = body["content"]["application/json"]["schema"]["$ref"]
    assert reference == f"#/components/schemas/{schema}"


def test_every_operation_names_its_key_and_its_errors(document: dict[str, Any]) -> None:
    error = {"$ref": "#/components/schemas/ErrorDocument"}
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["security"] == [{"key": []}]
            for status in ("400", "401", "404", "413", "422", "429", "503"):
                answer = operation["responses"][status]
                assert answer["content"]["application/json"]["schema"] == error


def test_answers_of_a_generation(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/generate"]["post"]["responses"]

    assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
    assert set(responses["202"]["content"]) == {"application/json"}
