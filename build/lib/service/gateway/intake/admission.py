"""From a validated document to a queued request."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service import messages
from service.broker.owners import IdempotencyKey, OwnerLimits
from service.broker.turns.queue import Queue
from service.gateway.api.schemas import GenerateRequest
from service.gateway.auth import Caller
from service.gateway.intake.content import ContentIntake
from service.gateway.problems import Problem
from service.telemetry.metrics import ADMISSION_OUTCOMES, REQUESTS, start_at_zero

DocumentType = TypeVar("DocumentType")

_IDEMPOTENCY_KEY = re.compile(r"^[\x21-\x7e]{1,255}$")


@dataclass(frozen=True)
class Defaults:
    """Values for requests that do not give their own."""

    model: str
    on_disconnect: str
    deadline_ms: int
    max_choices: int
    owner_limits: OwnerLimits

    def limits_of(self, caller: Caller) -> OwnerLimits:
        return OwnerLimits(
            max_concurrent=caller.concurrent_requests or self.owner_limits.max_concurrent,
            requests_per_minute=caller.requests_per_minute or self.owner_limits.requests_per_minute,
        )


@dataclass(frozen=True)
class Accepted(Generic[DocumentType]):
    """A queued request, and the document that asked for it.

    `created` is False if the idempotency key named an earlier request, which `request` then is.
    """

    document: DocumentType
    request: messages.Request
    created: bool

    @property
    def location(self) -> dict[str, str]:
        return {"Location": f"/v1/requests/{self.request.request_id}"}


def idempotency_key_of(key: str | None, fingerprint: Callable[[], str]) -> IdempotencyKey | None:
    """The header's value, with the fingerprint of the body that it stands for.

    Raises:
        Problem: the key is malformed.
    """
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.match(key):
        raise Problem("invalid_header", param="Idempotency-Key")
    return IdempotencyKey(key, fingerprint())


class Admissions:
    """Accepts generate requests."""

    def __init__(self, queue: Queue, content: ContentIntake, defaults: Defaults) -> None:
        self._queue, self._content, self._defaults = queue, content, defaults
        start_at_zero(REQUESTS, ADMISSION_OUTCOMES)

    async def accept(
        self,
        document: GenerateRequest,
        uploads: dict[str, bytes],
        caller: Caller,
        idempotency_key: IdempotencyKey | None = None,
        traceparent: str | None = None,
    ) -> tuple[messages.Request, bool]:
        """Check what the schema cannot, store the images and enqueue the request.

        Returns:
            The request, and whether this call created it.

        Raises:
            ServiceError: the request is refused.
        """
        limits = self._defaults.limits_of(caller)
        self._check(document, limits)
        content = await self._content.accept(document.content, uploads, caller.owner)
        request = self._request(document, content, caller.owner, traceparent)
        admission = await self._queue.enqueue(request, limits, idempotency_key)
        if not admission.created:
            request = (await self._queue.status(admission.request_id)).request
        return request, admission.created

    def _check(self, document: GenerateRequest, limits: OwnerLimits) -> None:
        if document.model not in (None, self._defaults.model):
            raise Problem("model_not_found", param="model")
        most = min(self._defaults.max_choices, limits.max_concurrent or self._defaults.max_choices)
        if document.n > most:
            raise Problem("too_many_choices", param="n", limit=most)

    def _request(
        self,
        document: GenerateRequest,
        content: tuple[messages.ContentPart, ...],
        owner: str,
        traceparent: str | None,
    ) -> messages.Request:
        seed = document.image.seed
        if seed is None:
            seed = document.seed if document.seed is not None else secrets.randbits(32)
        on_disconnect = document.on_disconnect or self._defaults.on_disconnect
        return messages.Request(
            owner=owner,
            content=content,
            output_modalities=tuple(dict.fromkeys(document.output_modalities)),
            sampling=document.sampling_params(),
            image=document.image.params(seed),
            draw_now=document.draw_now,
            limits=messages.AnswerLimits(
                max_tokens=document.max_tokens, max_images=document.max_images
            ),
            n=document.n,
            priority=document.priority,
            deadline_ms=document.deadline_ms or self._defaults.deadline_ms,
            stream=document.stream,
            cancel_on_disconnect=not document.background and on_disconnect == "cancel",
            model=document.model,
            traceparent=traceparent,
        )
