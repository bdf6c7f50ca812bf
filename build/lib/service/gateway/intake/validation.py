"""From a document to its schema, with errors that name the field and quote no input."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.gateway.problems import Problem

SchemaType = TypeVar("SchemaType", bound=BaseModel)

# A document of this size is parsed in a few milliseconds at most.
_SMALL_BYTES = 64 * 1024
# Texts for pydantic's error types; values in braces are bounds of the schema.
_REASONS: dict[str, str] = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "has the wrong form",
    "string_unicode": "must be valid Unicode text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be one of {expected}",
    "union_tag_invalid": "must have a type among {expected_tags}",
    "union_tag_not_found": "must be an object with a type",
}
_MODEL_RULES: dict[str, tuple[str, str]] = {
    "one_source": ("", "needs exactly one of b64, url, upload, sha256"),
    "no_content": ("content", "must hold text or an image"),
    "stream_background": ("background", "cannot be combined with stream"),
    "no_output": ("max_images", "must be at least 1 when only images are wanted"),
    "draw_now": ("draw_now", "needs images in output_modalities and max_images of at least 1"),
    "top_logprobs": ("top_logprobs", "needs logprobs to be true"),
    "min_tokens": ("min_tokens", "must not be above max_tokens"),
}


def parse(schema: type[SchemaType], document: bytes | dict[str, Any]) -> SchemaType:
    """Validate JSON text, or the fields of a form.

    Raises:
        Problem: it is not JSON or does not fit the schema; names the first field that is wrong.
    """
    try:
        if isinstance(document, bytes):
            return schema.model_validate_json(document)
        return schema.model_validate(document)
    except ValidationError as error:
        raise _problem(error.errors(include_url=False, include_input=False)[0]) from None


async def parse_body(schema: type[SchemaType], document: bytes | dict[str, Any]) -> SchemaType:
    """`parse`, in a thread if the document is large."""
    if isinstance(document, dict) or len(document) <= _SMALL_BYTES:
        return parse(schema, document)
    return await asyncio.to_thread(parse, schema, document)


def _problem(error: Mapping[str, Any]) -> Problem:
    kind, context = error["type"], error.get("ctx", {})
    param = _path(error["loc"])
    if kind == "json_invalid":
        return Problem("invalid_json")
    if kind == "missing":
        return Problem("missing_field", param=param)
    if kind == "extra_forbidden":
        return Problem("unknown_field", param=param)
    if kind == "value_error":
        name, reason = _MODEL_RULES[str(context["error"])]
        where = ".".join(filter(None, (param, name)))
        return Problem("invalid_value", param=where, reason=reason)
    reason = _REASONS.get(kind, "is not valid")
    return Problem("invalid_value", param=param or None, reason=reason.format_map(context))


def _is_tag(step: str, field: int | str) -> bool:
    """Whether a step is the tag of the union of content parts, which is not a field."""
    return step in ("text", "image") or (step == "role" and field == "content")


def _path(location: tuple[int | str, ...]) -> str:
    """`content[2].b64` for ("content", 2, "image", "b64"); long names are truncated."""
    path = ""
    for position, step in enumerate(location):
        if isinstance(step, int):
            path += f"[{step}]"
        elif position and isinstance(location[position - 1], int) and _is_tag(step, location[0]):
            continue
        else:
            name = "".join(c if c.isascii() and c.isprintable() else "?" for c in step[:64])
            path += f".{name}" if path else name
    return path
