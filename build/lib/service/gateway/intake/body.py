"""Reading a request's body, bounded while it arrives.

A form either holds the whole request as JSON in the field `request`, with content parts that name
file fields (`{"type": "image", "upload": "cat"}`), or it holds plain fields: each `text` and
`image` field is the next content part, in the order of the form, and every other field is a
parameter.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import QueueFull
from service.gateway.images.cleaning import ImageLimits
from service.gateway.problems import Problem

_DRAIN_SECONDS = 10.0
_MAX_FIELDS = 256
_UNDECLARED_BYTES = 2**20


@dataclass(frozen=True)
class IntakeLimits:
    """Bounds of one request, and of all bodies that one gateway process reads at a time."""

    body_bytes: int = 32 * 2**20
    bodies_bytes: int = 256 * 2**20
    body_seconds: float = 60.0
    text_characters: int = 100_000
    images: int = 16
    image: ImageLimits = ImageLimits()


@dataclass
class BodyBudget:
    """Bytes of bodies that this process is reading or decoding now, over all requests."""

    limits: IntakeLimits
    used: int = 0

    def take(self, size: int) -> int:
        """Reserve `size` bytes.

        Raises:
            QueueFull: other bodies leave no room for them now.
        """
        if self.used + size > self.limits.bodies_bytes:
            raise QueueFull(retry_after_s=1.0)
        self.used += size
        return size

    def give_back(self, size: int) -> None:
        self.used -= size

    @contextlib.contextmanager
    def reserve(self, request: Request) -> Iterator[None]:
        """Reserve the size of a request's body; see `take`."""
        size = min(declared_length(request) or _UNDECLARED_BYTES, self.limits.body_bytes)
        self.take(size)
        try:
            yield
        finally:
            self.give_back(size)


@dataclass(frozen=True)
class RawBody:
    """A body before validation: its document as JSON or as values, and the uploads by name."""

    document: bytes | dict[str, Any]
    uploads: dict[str, bytes] = field(default_factory=dict)

    def fingerprint(self, path: str) -> str:
        """What an idempotency key stands for: the document and the files, however they are sent."""
        document = self.document
        if isinstance(document, dict):
            document = json.dumps(document).encode()
        digest = hashlib.sha256(path.encode() + b"\0" + document)
        for name in sorted(self.uploads):
            digest.update(name.encode() + hashlib.sha256(self.uploads[name]).digest())
        return digest.hexdigest()


def declared_length(request: Request) -> int | None:
    """The value of the Content-Length header.

    Raises:
        Problem: it is not a number.
    """
    value = request.headers.get("content-length")
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 15:
        raise Problem("invalid_header", param="Content-Length")
    return int(value)


async def read_body(request: Request, limits: IntakeLimits) -> RawBody:
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
                return RawBody(b"".join([chunk async for chunk in _bounded(request, limits)]))
            if not options.get(b"boundary"):
                raise Problem("invalid_multipart")
            return await _read_form(request, limits)
    except TimeoutError:
        raise Problem("body_too_slow", limit=int(limits.body_seconds)) from None


async def _bounded(request: Request, limits: IntakeLimits) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body_bytes:
            await _discard(request, limits)
            raise Problem("body_too_large", limit=limits.body_bytes)
        yield chunk


async def _discard(request: Request, limits: IntakeLimits) -> None:
    """Read part of a refused body: a client that is still sending does not read the answer."""
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


async def _read_form(request: Request, limits: IntakeLimits) -> RawBody:
    parser = MultiPartParser(
        Headers(scope=request.scope),
        _bounded(request, limits),
        max_files=limits.images + 1,
        max_fields=_MAX_FIELDS,
        max_part_size=limits.body_bytes,
    )
    with contextlib.ExitStack() as files:
        # The parser itself closes them only after some of the errors.
        files.callback(_close_files, parser)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if "many files" in error.message:
                raise Problem("too_many_images", param="content", limit=limits.images) from None
            raise Problem("invalid_multipart") from None
        except (ValueError, LookupError):
            raise Problem("invalid_multipart") from None
        return (await _sorted(form)).body()


def _close_files(parser: MultiPartParser) -> None:
    """Close the files that a form is spooled to."""
    for file in parser._files_to_close_on_error:
        file.close()


@dataclass
class _Form:
    """A form, sorted: files by name, content parts in order, and all other fields."""

    uploads: dict[str, bytes] = field(default_factory=dict)
    content: list[dict[str, str]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    document: bytes | None = None

    def add_file(self, name: str, data: bytes) -> None:
        """A file is a content part if its field is `image`; else a content part may name it."""
        if name == "request":
            self.document = data
            return
        key = name if name not in self.uploads else f"{name}#{len(self.uploads)}"
        self.uploads[key] = data
        if name == "image":
            self.content.append({"type": "image", "upload": key})

    def add_field(self, name: str, value: str) -> None:
        if name == "request":
            self.document = value.encode()
        elif name == "text":
            self.content.append({"type": "text", "text": value})
        elif name in self.fields:
            raise Problem("invalid_value", param=name, reason="is given more than once")
        else:
            self.fields[name] = _scalar(value)

    def body(self) -> RawBody:
        """The body that the form stands for."""
        has_text = any(part["type"] == "text" for part in self.content)
        if self.document is not None:
            if has_text or self.fields:
                reason = "cannot be combined with other fields"
                raise Problem("invalid_value", param="request", reason=reason)
            return RawBody(self.document, self.uploads)
        if "content" in self.fields and has_text:
            reason = "cannot be combined with text fields"
            raise Problem("invalid_value", param="content", reason=reason)
        if self.content:
            self.fields.setdefault("content", self.content)
        return RawBody(self.fields, self.uploads)


async def _sorted(form: FormData) -> _Form:
    found = _Form()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            found.add_file(name, await value.read())
        else:
            found.add_field(name, value)
    return found


def _scalar(value: str) -> Any:
    """A form field as JSON if it is JSON (`12`, `true`, `{"steps": 4}`), else as a string."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
