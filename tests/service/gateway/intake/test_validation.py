"""A document is validated once, whether it comes as JSON or as the fields of a form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service import messages
from service.gateway.api.schemas import GenerateRequest
from service.gateway.intake.validation import parse, parse_body
from service.gateway.problems import Problem

CONTENT: list[dict[str, Any]] = [
    {"type": "text", "text": "A cat."},
    {"type": "image", "upload": "cat"},
]


def test_json_and_values_give_the_same_document() -> None:
    document = {
        "content": CONTENT,
        "temperature": 1,
        "stop": ["x"],
        "logit_bias": {"3": -1},
        "image": {"return": "url", "steps": 4},
    }

    assert parse(GenerateRequest, document) == parse(GenerateRequest, json.dumps(document).encode())


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"max_tokens": "many"}, "invalid_value", "max_tokens"),
        ({"max_tokens": 1.5}, "invalid_value", "max_tokens"),
        ({"content": [{"type": "image"}]}, "invalid_value", "content[0]"),
        ({"content": [{"type": "text"}]}, "missing_field", "content[0].text"),
        ({"content": [1]}, "invalid_value", "content[0]"),
        ({"content": "text"}, "invalid_value", "content"),
        ({"image": {"steps": 0}}, "invalid_value", "image.steps"),
        ({"colour": "red"}, "unknown_field", "colour"),
        ({"stream": True, "background": True}, "invalid_value", "background"),
        ({"temperature": float("nan")}, "invalid_value", "temperature"),
    ],
)
def test_errors_are_the_same_for_json_and_values(
    fields: dict[str, Any], code: str, param: str
) -> None:
    document = {"content": CONTENT} | fields
    for form in (document, json.dumps(document).encode()):
        with pytest.raises(Problem) as raised:
            parse(GenerateRequest, form)
        assert (raised.value.code, raised.value.param) == (code, param)


async def test_a_large_document_is_parsed_too() -> None:
    document = (
        json.dumps({"content": [CONTENT[0]] * 1000, "model": "m" * 100}).encode() + b" " * 2**16
    )

    assert len((await parse_body(GenerateRequest, document)).content) == 1000


def test_validated_text_travels_to_the_queue_as_it_is() -> None:
    document = parse(GenerateRequest, {"content": CONTENT[:1]})
    request = messages.Request(content=tuple(document.content))

    assert request.content[0] is document.content[0]
    assert messages.Request.decode(request.encode()).content == (messages.TextPart(text="A cat."),)
