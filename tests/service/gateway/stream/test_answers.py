"""Answers for clients."""

from __future__ import annotations

import json

from service.broker.redis.connection import Broker
from service.errors import QueueFull
from service.gateway.images.library import ImageLibrary
from service.gateway.stream.answers import Answers
from service.messages import (
    ImageResult,
    Request,
    RequestImageParams,
    RequestStatus,
    StoredEvent,
    StoredFailure,
    TextPart,
)

CONTENT = (TextPart(text="hello"),)


def status(request: Request, **fields: object) -> RequestStatus:
    times = {"turn": 0, "created_ms": 1500, "deadline_at_ms": 2}
    return RequestStatus(request=request, **{"state": "completed", **times, **fields})


async def test_an_image_that_has_expired_has_an_address_only(broker: Broker) -> None:
    images = ImageLibrary(broker)
    answers, request = Answers(images, "m"), Request(content=CONTENT, owner="alice")
    sha256 = await images.add("alice", b"bytes")
    for digest, field in ((sha256, "b64"), ("0" * 64, "url")):
        image = {"sha256": digest, "mime": "image/png", "width": 8, "height": 8, "seed": 1}
        raw = json.dumps({"index": 0, **image})
        event = StoredEvent(id="1-0", sequence_number=0, request_id="r", type="image.done", raw=raw)
        assert field in json.loads(await answers.event(event, request))
        document = await answers.document(status(request, results=(ImageResult(**image),)))
        assert getattr(document.content[0], field)


async def test_images_by_address(broker: Broker) -> None:
    images = ImageLibrary(broker)
    request = Request(content=CONTENT, image=RequestImageParams(returns="url"))
    sha256 = await images.add("somebody", b"bytes")
    result = ImageResult(sha256=sha256, mime="image/png", width=8, height=8, seed=1)
    document = await Answers(images, "m").document(status(request, results=(result,)))

    assert document.content[0].model_dump() == {
        "type": "image", "b64": None, "url": f"/v1/images/{sha256}", **result.image.model_dump()
    }  # fmt: skip


async def test_a_failed_request_has_the_status_of_its_error(broker: Broker) -> None:
    error = QueueFull()
    failure = StoredFailure(
        type=error.type, code=error.code, message=error.message, status=error.status
    )
    answers = Answers(ImageLibrary(broker), "m")
    response = await answers.response(
        status(Request(content=CONTENT), state="failed", error=failure), {"Location": "/x"}
    )

    assert (response.status_code, response.headers["location"]) == (429, "/x")
    assert set(json.loads(bytes(response.body))["error"]) == {
        "type", "code", "message", "param", "request_id", "retryable",
    }  # fmt: skip
