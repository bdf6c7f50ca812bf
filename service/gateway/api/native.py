"""The API of this project: generate, look up, resume, cancel, and fetch images."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from service import messages
from service.broker.stream.events import check_cursor, parse_cursor
from service.broker.turns.queue import Enqueued
from service.errors import BlobNotFound, RequestNotFound
from service.gateway.api.schemas import GenerateRequest, GenerateResponse
from service.gateway.auth import Caller
from service.gateway.deps import Gateway, caller_of, gateway_of
from service.gateway.intake.admission import Envelope, fingerprint
from service.gateway.intake.body import declared_length, read_request
from service.gateway.intake.validation import parse_body
from service.gateway.problems import failure_of
from service.gateway.stream.images import mime_of

router = APIRouter()

RequestId = Annotated[str, Path(pattern=r"^req_[0-9a-f]{32}$")]
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


def envelope_of(http: Request, digest: str) -> Envelope:
    """What the headers say about a request."""
    headers = http.headers
    return Envelope(headers.get("idempotency-key"), headers.get("traceparent"), digest)


async def admit(
    http: Request, gateway: Gateway, caller: Caller
) -> tuple[GenerateRequest, Enqueued, messages.Request]:
    """Read, check and accept a generate request."""
    size = gateway.bodies.take(min(declared_length(http) or 2**20, gateway.limits.body_bytes))
    try:
        raw = await read_request(http, gateway.limits)
        document = await parse_body(GenerateRequest, raw.document)
        envelope = envelope_of(http, fingerprint(http.url.path, raw))
        accepted = await gateway.admissions.accept(document, raw.uploads, caller, envelope)
    finally:
        gateway.bodies.give_back(size)
    return document, *accepted


@router.post("/generate", include_in_schema=False)
@router.post("/v1/generate", response_model=GenerateResponse, operation_id="generate")
async def generate(http: Request) -> Response:
    """Continue interleaved content with text and images."""
    gateway, caller = gateway_of(http), caller_of(http, "generate")
    document, admission, request = await admit(http, gateway, caller)
    location = {"Location": f"/v1/requests/{admission.request_id}"}
    if document.stream:
        return gateway.relay.stream(request, None, location, owns=admission.created)
    if not document.background and await gateway.relay.wait(http, request):
        return await finished(gateway, admission.request_id, location)
    # In the background; or the client has left, or this server stops and the client can look the
    # answer up elsewhere.
    answer = await gateway.answers.document(await gateway.queue.status(admission.request_id))
    return JSONResponse(answer.model_dump(), status_code=202, headers=location)


async def finished(gateway: Gateway, request_id: str, headers: dict[str, str]) -> Response:
    """The answer of a request that has ended; a failed one has an error's status."""
    status = await gateway.queue.status(request_id)
    if (failure := failure_of(status)) is not None:
        code, document = failure
        return JSONResponse(document, status_code=code, headers=headers)
    answer = await gateway.answers.document(status)
    return JSONResponse(answer.model_dump(), headers=headers)


async def owned(http: Request, request_id: str) -> messages.RequestStatus:
    """The status of a request, if it is the caller's.

    Raises:
        RequestNotFound: there is none, or it is somebody else's.
    """
    caller = caller_of(http, "read")
    status = await gateway_of(http).queue.status(request_id)
    if status.request.owner != caller.owner:
        raise RequestNotFound
    return status


@router.get("/v1/requests/{request_id}", operation_id="get_request")
async def get_request(http: Request, request_id: RequestId) -> GenerateResponse:
    """The state of a request and the parts of its answer that are finished."""
    status = await owned(http, request_id)
    return await gateway_of(http).answers.document(status)


@router.get(
    "/v1/requests/{request_id}/events",
    operation_id="get_events",
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def get_events(
    http: Request,
    request_id: RequestId,
    after: Annotated[str | None, Query(max_length=64)] = None,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """The events of a request after an event id (`Last-Event-ID` or `after`), up to its end."""
    status, gateway = await owned(http, request_id), gateway_of(http)
    cursor = last_event_id or after
    await check_cursor(gateway.broker, request_id, parse_cursor(cursor))
    return gateway.relay.stream(status.request, cursor, {}, owns=False)


@router.delete("/v1/requests/{request_id}", operation_id="cancel_request")
async def cancel_request(http: Request, request_id: RequestId) -> GenerateResponse:
    """Cancel a request, queued or running; one that has ended stays as it is."""
    await owned(http, request_id)
    gateway = gateway_of(http)
    await gateway.queue.cancel(request_id)
    return await gateway.answers.document(await gateway.queue.status(request_id))


@router.get(
    "/v1/images/{sha256}",
    operation_id="get_image",
    responses={200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def get_image(http: Request, sha256: Sha256) -> Response:
    """An image that you uploaded or that was generated for you."""
    caller = caller_of(http, "read")
    data = await gateway_of(http).images.read(caller.owner, sha256)
    mime = mime_of(data)
    if mime is None:
        raise BlobNotFound
    headers = {
        "Cache-Control": "private, max-age=3600, immutable",
        "ETag": f'"{sha256}"',
        "Content-Disposition": "inline",
    }
    return Response(data, media_type=mime, headers=headers)
