"""OpenAI-compatible endpoints, as a translation to and from our own requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from service import messages
from service.gateway.admission import fingerprint
from service.gateway.auth import Caller
from service.gateway.body import declared_length, read_request
from service.gateway.chat import (
    chat_answer,
    chat_chunks,
    generate_from_chat,
    generate_from_images,
    image_item,
)
from service.gateway.chat_schemas import ChatRequest, ImagesRequest
from service.gateway.deps import Gateway, caller_of, gateway_of
from service.gateway.outcome import failure_of
from service.gateway.problems import Problem
from service.gateway.routes import envelope_of
from service.gateway.schemas import GenerateRequest
from service.gateway.sse import PING
from service.gateway.validation import SchemaType, parse

router = APIRouter()


async def _read(http: Request, schema: type[SchemaType]) -> tuple[SchemaType, str]:
    """The body, and its fingerprint."""
    gateway = gateway_of(http)
    size = gateway.bodies.take(min(declared_length(http) or 2**20, gateway.limits.body_bytes))
    try:
        raw = await read_request(http, gateway.limits)
        if raw.uploads:
            raise Problem("unused_upload")
        return await asyncio.to_thread(parse, schema, raw.document), fingerprint(http.url.path, raw)
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
    """Chat completion; with `modalities: ["text", "image"]` pictures come in `images`."""
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
    async with contextlib.aclosing(documents) as items:  # type: ignore[type-var]
        async for item in items:
            if item is None:
                yield PING
                continue
            for chunk in chat_chunks(json.loads(item[1]), usage):
                yield f"data: {json.dumps(head | chunk, separators=(',', ':'))}\n\n".encode()
    yield b"data: [DONE]\n\n"


@router.post("/v1/images/generations", operation_id="images_generations")
async def images_generations(http: Request) -> Response:
    """Pictures from a prompt; `n` pictures are independent of each other."""
    gateway, caller = gateway_of(http), caller_of(http, "generate")
    wanted, digest = await _read(http, ImagesRequest)
    documents = [generate_from_images(wanted, number) for number in range(wanted.n)]
    envelope = envelope_of(http, digest)
    if wanted.n > 1 and envelope.idempotency_key is not None:
        raise Problem("invalid_value", param="n", reason="must be 1 with an Idempotency-Key")
    requests = [await _accept(gateway, caller, document, envelope) for document in documents]
    for request in requests:
        await gateway.relay.wait(http, request)
    items = []
    for request in requests:
        status = await gateway.queue.status(request.request_id)
        if failure := failure_of(status):
            return JSONResponse(failure[1], failure[0])
        items += image_item(await gateway.answers.document(status))
    return JSONResponse({"created": int(time.time()), "data": items})


async def _accept(
    gateway: Gateway, caller: Caller, document: GenerateRequest, envelope: Any
) -> messages.Request:
    return (await gateway.admissions.accept(document, {}, caller, envelope))[1]
