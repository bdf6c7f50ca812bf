"""Reading a request's body: bounded while it arrives, and parsed into a request document.

A form may hold the whole request as JSON in the field `request`, with content parts that name file
fields (`{"type": "image", "upload": "cat"}`); or simply fields, where each `text` and `image`
field is the next content part, in the order of the form, and every other field a parameter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import QueueFull
from service.gateway.intake.limits import Limits
from service.gateway.problems import Problem

_DRAIN_SECONDS = 10.0
_MAX_FIELDS = 256


@dataclass
class BodyBudget:
    """Bytes of bodies that this process is reading or decoding now, over all requests."""

    limits: Limits
    used: int = field(default=0)

    def take(self, size: int) -> int:
        """Book `size` bytes, or say that there is no room now."""
        if self.used + size > self.limits.bodies_bytes:
            raise QueueFull(retry_after_s=1.0)
        self.used += size
        return size

    def give_back(self, size: int) -> None:
        """End a booking."""
        self.used -= size


@dataclass(frozen=True)
class RawRequest:
    """A request before validation: JSON text, and the uploaded files by name."""

    document: bytes
    uploads: dict[str, bytes]
    size: int


def declared_length(request: Request) -> int | None:
    """What the Content-Length header says.

    Raises:
        Problem: it is not a number.
    """
    value = request.headers.get("content-length")
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 15:
        raise Problem("invalid_header", param="Content-Length")
    return int(value)


async def read_request(request: Request, limits: Limits) -> RawRequest:
    """Read a JSON or form body.

    Raises:
        Problem: the body is too large, too slow, of another type, or malformed.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind not in (b"application/json", b"multipart/form-data"):
        await _discard(request, limits)
        raise Problem("unsupported_media_type", param="Content-Type")
    if (declared_length(request) or 0) > limits.body_bytes:
        await _discard(request, limits)
        raise Problem("body_too_large", limit=limits.body_bytes)
    try:
        async with asyncio.timeout(limits.body_seconds):
            if kind == b"application/json":
                chunks = [chunk async for chunk in _bounded(request, limits)]
                document = b"".join(chunks)
                return RawRequest(document, {}, len(document))
            if not options.get(b"boundary"):
                raise Problem("invalid_multipart")
            return await _read_form(request, limits)
    except TimeoutError:
        raise Problem("body_too_slow", limit=int(limits.body_seconds)) from None


async def _bounded(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body_bytes:
            await _discard(request, limits)
            raise Problem("body_too_large", limit=limits.body_bytes)
        yield chunk


async def _discard(request: Request, limits: Limits) -> None:
    """Read some of an unwanted body, so that the client gets to read the answer."""
    left = 4 * limits.body_bytes
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0:
                message = await request.receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


async def _read_form(request: Request, limits: Limits) -> RawRequest:
    parser = MultiPartParser(
        Headers(scope=request.scope),
        _bounded(request, limits),
        max_files=limits.images + 1,
        max_fields=_MAX_FIELDS,
        max_part_size=limits.body_bytes,
    )
    with contextlib.ExitStack() as files:
        # The parser closes the files of a form that breaks off in only some of the ways.
        files.callback(_close_files, parser)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if "many files" in error.message:
                raise Problem("too_many_images", param="content", limit=limits.images) from None
            raise Problem("invalid_multipart") from None
        except (ValueError, LookupError):
            raise Problem("invalid_multipart") from None
        return await _form_document(form)


def _close_files(parser: MultiPartParser) -> None:
    """Close the files that a form was spooled to."""
    for file in parser._files_to_close_on_error:
        file.close()


@dataclass
class _Form:
    """A form, sorted: files by name, the parts of the content in order, and all other fields."""

    uploads: dict[str, bytes] = field(default_factory=dict)
    content: list[dict[str, str]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    document: bytes | None = None

    def add_file(self, name: str, data: bytes) -> None:
        """A file: a part of the content if its field is `image`, else there to be named."""
        if name == "request":
            self.document = data
            return
        key = name if name not in self.uploads else f"{name}#{len(self.uploads)}"
        self.uploads[key] = data
        if name == "image":
            self.content.append({"type": "image", "upload": key})

    def add_field(self, name: str, value: str) -> None:
        """A field without a file."""
        if name == "request":
            self.document = value.encode()
        elif name == "text":
            self.content.append({"type": "text", "text": value})
        elif name in self.fields:
            raise Problem("invalid_value", param=name, reason="is given more than once")
        else:
            self.fields[name] = _scalar(value)

    def encode(self) -> bytes:
        """The request document that the form stands for."""
        has_text = any(part["type"] == "text" for part in self.content)
        if self.document is not None:
            if has_text or self.fields:
                reason = "cannot be combined with other fields"
                raise Problem("invalid_value", param="request", reason=reason)
            return self.document
        if "content" in self.fields and has_text:
            reason = "cannot be combined with text fields"
            raise Problem("invalid_value", param="content", reason=reason)
        if self.content:
            self.fields.setdefault("content", self.content)
        return json.dumps(self.fields).encode()


async def _form_document(form: FormData) -> RawRequest:
    sorted_form = _Form()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            sorted_form.add_file(name, await value.read())
        else:
            sorted_form.add_field(name, value)
    document = sorted_form.encode()
    size = len(document) + sum(map(len, sorted_form.uploads.values()))
    return RawRequest(document, sorted_form.uploads, size)


def _scalar(value: str) -> Any:
    """A form field as JSON if it is JSON (`12`, `true`, `{"steps": 4}`), else as a string."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
