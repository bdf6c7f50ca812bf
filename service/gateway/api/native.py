"""The API of this project: generate, look up, resume, cancel, and fetch images."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from service import messages
from service.broker.stream.events import check_cursor, parse_cursor
from service.errors import BlobNotFound, RequestNotFound
from service.gateway.api.openapi import ERRORS, EVENT_STREAM, request_body
from service.gateway.api.schemas import GenerateRequest, GenerateResponse
from service.gateway.deps import GatewayDep, Reader, accept, name_request
from service.gateway.images.library import mime_of
from service.gateway.intake.admission import Accepted

router = APIRouter(responses=ERRORS)

RequestId = Annotated[str, Path(pattern=r"^req_[0-9a-f]{32}$")]
ImageDigest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


def _as_is(document: GenerateRequest) -> GenerateRequest:
    return document


@router.post("/generate", include_in_schema=False)
@router.post(
    "/v1/generate",
    response_model=GenerateResponse,
    operation_id="generate",
    responses={**EVENT_STREAM, 202: {"model": GenerateResponse, "description": "Accepted"}},
    openapi_extra=request_body(GenerateRequest, form=True),
)
async def generate(
    http: Request,
    gateway: GatewayDep,
    accepted: Annotated[
        Accepted[GenerateRequest], Depends(accept(GenerateRequest, _as_is, uploads=True))
    ],
) -> Response:
    """Continue interleaved content with text and images."""
    document, request = accepted.document, accepted.request
    if document.stream:
        return gateway.relay.stream(request, None, accepted.location, owns=accepted.created)
    ended = not document.background and await gateway.relay.wait(http, request)
    status = await gateway.queue.status(request.request_id)
    if ended:
        return await gateway.answers.response(status, accepted.location)
    # In the background; or the client has left; or this server stops, and the client can fetch
    # the answer from another one.
    answer = await gateway.answers.document(status)
    return JSONResponse(answer.model_dump(), status_code=202, headers=accepted.location)


async def owned_status(
    http: Request, request_id: RequestId, gateway: GatewayDep, caller: Reader
) -> messages.RequestStatus:
    """A dependency: the status of a request that belongs to the caller.

    Raises:
        RequestNotFound: there is none, or it belongs to another owner.
    """
    status = await gateway.queue.status(request_id)
    if status.request.owner != caller.owner:
        raise RequestNotFound
    name_request(http, request_id)
    return status


OwnedStatus = Annotated[messages.RequestStatus, Depends(owned_status)]


@router.get("/v1/requests/{request_id}", operation_id="get_request")
async def get_request(gateway: GatewayDep, status: OwnedStatus) -> GenerateResponse:
    """The state of a request and the parts of its answer that are finished."""
    return await gateway.answers.document(status)


@router.get("/v1/requests/{request_id}/events", operation_id="get_events", responses=EVENT_STREAM)
async def get_events(
    gateway: GatewayDep,
    status: OwnedStatus,
    after: Annotated[str | None, Query(max_length=64)] = None,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """The events of a request after an event id (`Last-Event-ID` or `after`), up to its end."""
    cursor = last_event_id or after
    await check_cursor(gateway.broker, status.request.request_id, parse_cursor(cursor))
    return gateway.relay.stream(status.request, cursor, {}, owns=False)


@router.delete("/v1/requests/{request_id}", operation_id="cancel_request")
async def cancel_request(gateway: GatewayDep, status: OwnedStatus) -> GenerateResponse:
    """Cancel a request, queued or running; one that has ended stays as it is."""
    await gateway.queue.cancel(status.request.request_id)
    return await gateway.answers.document(await gateway.queue.status(status.request.request_id))


@router.get(
    "/v1/images/{sha256}",
    operation_id="get_image",
    responses={200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def get_image(gateway: GatewayDep, caller: Reader, sha256: ImageDigest) -> Response:
    """An image that you uploaded or that was generated for you."""
    data = await gateway.images.read(caller.owner, sha256)
    mime = mime_of(data)
    if mime is None:
        raise BlobNotFound
    headers = {
        "Cache-Control": "private, max-age=3600, immutable",
        "ETag": f'"{sha256}"',
        "Content-Disposition": "inline",
    }
    return Response(data, media_type=mime, headers=headers)
