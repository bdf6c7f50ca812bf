"""OpenAI-compatible endpoints, as a translation to and from our own requests."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from service import messages
from service.gateway.api.chat import (
    chat_answer,
    chat_chunks,
    generate_from_chat,
    generate_from_images,
    image_items,
)
from service.gateway.api.chat_schemas import ChatRequest, ImagesRequest
from service.gateway.api.native import envelope_of
from service.gateway.deps import Gateway, caller_of, gateway_of
from service.gateway.intake.admission import fingerprint
from service.gateway.intake.body import declared_length, read_request
from service.gateway.intake.validation import SchemaType, parse_body
from service.gateway.problems import Problem, failure_of
from service.gateway.stream.sse import PING

router = APIRouter()


async def _read(http: Request, schema: type[SchemaType]) -> tuple[SchemaType, str]:
    """The body, and its fingerprint."""
    gateway = gateway_of(http)
    size = gateway.bodies.take(min(declared_length(http) or 2**20, gateway.limits.body_bytes))
    try:
        raw = await read_request(http, gateway.limits)
        if raw.uploads:
            raise Problem("unused_upload")
        return await parse_body(schema, raw.document), fingerprint(http.url.path, raw)
    finally:
        gateway.bodies.give_back(size)


@router.get("/v1/models", operation_id="list_models")
async def list_models(http: Request) -> dict[str, Any]:
    """The one model of this server."""
    caller_of(http, "read")
    name = gateway_of(http).settings.model_name
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "self"}]}


@router.post("/v1/chat/completions", operation_id="chat_completions")
async def chat_completions(http: Request) -> Response:
    """Chat completion; with `modalities: ["text", "image"]` images come in `images`."""
    gateway, caller = gateway_of(http), caller_of(http, "generate")
    chat, digest = await _read(http, ChatRequest)
    admission, request = await gateway.admissions.accept(
        generate_from_chat(chat), {}, caller, envelope_of(http, digest)
    )
    headers = {"Location": f"/v1/requests/{admission.request_id}"}
    if chat.stream:
        usage = bool(chat.stream_options and chat.stream_options.include_usage)
        frames = _chat_frames(gateway, request, usage)
        return gateway.relay.custom(frames, request, headers, owns=admission.created)
    await gateway.relay.wait(http, request)
    status = await gateway.queue.status(request.request_id)
    if failure := failure_of(status):
        return JSONResponse(failure[1], failure[0], headers)
    answer = await gateway.answers.document(status)
    return JSONResponse(chat_answer(answer), headers=headers)


async def _chat_frames(
    gateway: Gateway, request: messages.Request, usage: bool
) -> AsyncIterator[bytes]:
    head = {
        "id": request.request_id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": gateway.settings.model_name,
    }
    documents = gateway.relay.documents(request)
    async with contextlib.aclosing(documents) as batches:  # type: ignore[type-var]
        async for batch in batches:
            if not batch:
                yield PING
            for _, document in batch:
                for chunk in chat_chunks(json.loads(document), request.n, usage):
                    yield f"data: {json.dumps(head | chunk, separators=(',', ':'))}\n\n".encode()
    yield b"data: [DONE]\n\n"


@router.post("/v1/images/generations", operation_id="images_generations")
async def images_generations(http: Request) -> Response:
    """Images from a prompt; `n` images are independent of each other."""
    gateway, caller = gateway_of(http), caller_of(http, "generate")
    wanted, digest = await _read(http, ImagesRequest)
    _, request = await gateway.admissions.accept(
        generate_from_images(wanted), {}, caller, envelope_of(http, digest)
    )
    await gateway.relay.wait(http, request)
    status = await gateway.queue.status(request.request_id)
    if failure := failure_of(status):
        return JSONResponse(failure[1], failure[0])
    items = image_items(await gateway.answers.document(status))
    return JSONResponse({"created": int(time.time()), "data": items})
