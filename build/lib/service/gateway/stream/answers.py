"""A request's answer for clients: events with their images, and the whole as one document."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi.responses import JSONResponse

from service.errors import BlobNotFound
from service.gateway.api.schemas import Choice, GenerateResponse, OutputImage, OutputText
from service.gateway.images.library import ImageLibrary
from service.gateway.problems import failure_of
from service.messages import ImageResult, Request, RequestStatus, StoredEvent

_WITH_IMAGE = frozenset({"image.preview", "image.done"})


class Answers:
    """Adds the bytes or addresses of the images that events and records only name."""

    def __init__(self, images: ImageLibrary, model: str) -> None:
        self._images = images
        self._model = model

    async def event(self, event: StoredEvent, request: Request) -> str:
        """An event's JSON as the client of `request` gets it."""
        if event.type not in _WITH_IMAGE:
            return event.encode()
        document: dict[str, Any] = event.document()
        inline = event.type == "image.preview" or request.image.returns == "b64"
        document |= await self._reveal(request.owner, document["sha256"], inline)
        return json.dumps(document, separators=(",", ":"))

    async def _reveal(self, owner: str, sha256: str, inline: bool) -> dict[str, str]:
        """`b64` or `url` of an image; an image that has expired has an address only."""
        if inline:
            try:
                return {"b64": await self._images.reveal(owner, sha256)}
            except BlobNotFound:
                pass
        await self._images.grant(owner, sha256)
        return {"url": f"/v1/images/{sha256}"}

    async def response(
        self,
        status: RequestStatus,
        headers: dict[str, str],
        form: Callable[[GenerateResponse], dict[str, Any]] = GenerateResponse.model_dump,
    ) -> JSONResponse:
        """The answer of a request in a form of the API; a failed one has an error's status."""
        if failure := failure_of(status):
            code, document = failure
            return JSONResponse(document, code, headers)
        return JSONResponse(form(await self.document(status)), headers=headers)

    async def document(self, status: RequestStatus) -> GenerateResponse:
        """The whole answer with all of its choices, as far as they are finished."""
        choices = [
            Choice(choice=number, **await self._outcome(choice))
            for number, choice in enumerate(status.choices)
        ]
        return GenerateResponse(
            id=status.request.request_id,
            created_at=status.created_ms / 1000,
            model=self._model,
            choices=choices or None,
            **await self._outcome(status),
        )

    async def _outcome(self, status: RequestStatus) -> dict[str, Any]:
        """The fields of an `Outcome`."""
        content: list[OutputText | OutputImage] = []
        for result in status.results:
            if isinstance(result, ImageResult):
                content.append(await self._image(result, status.request))
            else:
                content.append(OutputText(text=result.text, logprobs=result.logprobs))
        return {
            "status": "in_progress" if status.state == "running" else status.state,
            "reason": status.reason,
            "content": content,
            "usage": status.usage,
            "error": status.error.failure.model_dump() if status.error else None,
        }

    async def _image(self, result: ImageResult, request: Request) -> OutputImage:
        inline = request.image.returns == "b64"
        where = await self._reveal(request.owner, result.sha256, inline)
        return OutputImage.model_validate(result.image.model_dump() | where)
