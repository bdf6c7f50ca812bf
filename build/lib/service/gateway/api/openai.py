"""OpenAI-compatible endpoints: the same requests in other documents."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from service import messages
from service.gateway.api.openai_schemas import ChatRequest, ImagesRequest
from service.gateway.api.openapi import ERRORS, EVENT_STREAM, request_body
from service.gateway.api.schemas import GenerateResponse
from service.gateway.api.translation import (
    chat_answer,
    chat_chunks,
    generate_from_chat,
    generate_from_images,
    image_items,
)
from service.gateway.deps import Gateway, GatewayDep, Reader, accept
from service.gateway.intake.admission import Accepted
from service.gateway.stream.sse import PING

router = APIRouter(responses=ERRORS)


@router.get("/v1/models", operation_id="list_models")
async def list_models(gateway: GatewayDep, caller: Reader) -> dict[str, Any]:
    """The one model of this server."""
    name = gateway.settings.model_name
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "self"}]}


@router.post(
    "/v1/chat/completions",
    operation_id="chat_completions",
    responses=EVENT_STREAM,
    openapi_extra=request_body(ChatRequest),
)
async def chat_completions(
    http: Request,
    gateway: GatewayDep,
    accepted: Annotated[Accepted[ChatRequest], Depends(accept(ChatRequest, generate_from_chat))],
) -> Response:
    """Chat completion; with `modalities: ["text", "image"]` images come in `images`."""
    chat, request = accepted.document, accepted.request
    if chat.stream:
        usage = bool(chat.stream_options and chat.stream_options.include_usage)
        frames = _chat_frames(gateway, request, usage)
        return gateway.relay.custom(frames, request, accepted.location, owns=accepted.created)
    await gateway.relay.wait(http, request)
    status = await gateway.queue.status(request.request_id)
    return await gateway.answers.response(status, accepted.location, chat_answer)


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


@router.post(
    "/v1/images/generations",
    operation_id="images_generations",
    openapi_extra=request_body(ImagesRequest),
)
async def images_generations(
    http: Request,
    gateway: GatewayDep,
    accepted: Annotated[
        Accepted[ImagesRequest], Depends(accept(ImagesRequest, generate_from_images))
    ],
) -> Response:
    """Images from a prompt; `n` images are independent of each other."""
    await gateway.relay.wait(http, accepted.request)
    status = await gateway.queue.status(accepted.request.request_id)
    return await gateway.answers.response(status, {}, _images_answer)


def _images_answer(answer: GenerateResponse) -> dict[str, Any]:
    return {"created": int(time.time()), "data": image_items(answer)}
