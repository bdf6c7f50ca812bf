"""From an HTTP request to an accepted one: everything that can be refused is refused here."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from dataclasses import dataclass, fields

from model.sampling_params import QUALITIES, SamplingParams
from service import messages
from service.broker.model_card import ModelCards
from service.broker.owners import IdempotencyKey, OwnerLimits
from service.broker.turns.queue import Enqueued, Queue
from service.errors import ContextTooLong
from service.gateway.api.schemas import GenerateRequest, ImageOptions, ImagePart, TextPart
from service.gateway.auth import Caller
from service.gateway.intake.body import RawRequest
from service.gateway.intake.content import PixelBudget, clean_image, decode_base64
from service.gateway.intake.fetch import UrlFetcher
from service.gateway.intake.limits import Limits
from service.gateway.problems import Problem
from service.gateway.stream.images import ImageLibrary

_IDEMPOTENCY_KEY = re.compile(r"^[\x21-\x7e]{1,255}$")
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")


@dataclass(frozen=True)
class Defaults:
    """What holds for a request that says nothing about it."""

    model: str
    on_disconnect: str
    deadline_ms: int
    owner_limits: OwnerLimits


@dataclass(frozen=True)
class Envelope:
    """What the headers of a request say."""

    idempotency_key: str | None = None
    traceparent: str | None = None
    fingerprint: str = "-"

    def checked(self) -> Envelope:
        """This envelope, if its values have a valid form; a bad traceparent is ignored.

        Raises:
            Problem: the idempotency key is malformed.
        """
        if self.idempotency_key is not None and not _IDEMPOTENCY_KEY.match(self.idempotency_key):
            raise Problem("invalid_header", param="Idempotency-Key")
        trace = self.traceparent if _TRACEPARENT.match(self.traceparent or "") else None
        return Envelope(self.idempotency_key, trace, self.fingerprint)


def fingerprint(path: str, raw: RawRequest) -> str:
    """What an idempotency key stands for: the document and the files, however they were sent."""
    digest = hashlib.sha256(path.encode() + b"\0" + raw.document)
    for name in sorted(raw.uploads):
        digest.update(name.encode() + hashlib.sha256(raw.uploads[name]).digest())
    return digest.hexdigest()


class Admissions:
    """Turns validated documents into accepted requests."""

    def __init__(
        self,
        queue: Queue,
        images: ImageLibrary,
        fetcher: UrlFetcher,
        cards: ModelCards,
        limits: Limits,
        defaults: Defaults,
    ) -> None:
        self._queue, self._images = queue, images
        self._fetcher, self._cards = fetcher, cards
        self._limits, self._defaults = limits, defaults
        # Decoding is bounded so that a few large images cannot take all memory at once.
        self._decoding = asyncio.Semaphore(2)

    async def accept(
        self,
        document: GenerateRequest,
        uploads: dict[str, bytes],
        caller: Caller,
        envelope: Envelope,
    ) -> tuple[Enqueued, messages.Request]:
        """Check what the schema can't, store the images and enqueue the request.

        Raises:
            ServiceError: the request is refused.
        """
        envelope = envelope.checked()
        if document.model not in (None, self._defaults.model):
            raise Problem("model_not_found", param="model")
        default = self._defaults.owner_limits
        limits = OwnerLimits(
            max_concurrent=caller.concurrent_requests or default.max_concurrent,
            requests_per_minute=caller.requests_per_minute or default.requests_per_minute,
        )
        self._check_totals(document, uploads)
        most = min(self._limits.choices, limits.max_concurrent or self._limits.choices)
        if document.n > most:
            raise Problem("too_many_choices", param="n", limit=most)
        await self._check_fits(document)
        content = await self._content(document, uploads, caller.owner)
        request = self._request(document, content, caller.owner, envelope)
        key = envelope.idempotency_key
        idempotency_key = IdempotencyKey(key, envelope.fingerprint) if key else None
        admission = await self._queue.enqueue(request, limits, idempotency_key)
        if not admission.created:
            request = (await self._queue.status(admission.request_id)).request
        return admission, request

    async def _content(
        self, document: GenerateRequest, uploads: dict[str, bytes], owner: str
    ) -> tuple[messages.TextPart | messages.ImagePart, ...]:
        budget = PixelBudget(self._limits)
        parts: list[messages.TextPart | messages.ImagePart] = []
        for position, part in enumerate(document.content):
            if isinstance(part, TextPart):
                parts.append(messages.TextPart(text=part.text))
                continue
            sha256 = await self._image(part, f"content[{position}]", uploads, owner, budget)
            parts.append(messages.ImagePart(sha256=sha256))
        return tuple(parts)

    def _check_totals(self, document: GenerateRequest, uploads: dict[str, bytes]) -> None:
        texts = [part.text for part in document.content if isinstance(part, TextPart)]
        images = [part for part in document.content if isinstance(part, ImagePart)]
        if sum(map(len, texts)) > self._limits.text_characters:
            raise Problem("text_too_long", param="content", limit=self._limits.text_characters)
        if len(images) > self._limits.images:
            raise Problem("too_many_images", param="content", limit=self._limits.images)
        if set(uploads) - {image.upload for image in images}:
            raise Problem("unused_upload")

    async def _check_fits(self, document: GenerateRequest) -> None:
        """Refuse what surely does not fit the model; the worker refuses the rest of it."""
        card = await self._cards.current()
        if card is None:
            return
        texts = [part.text for part in document.content if isinstance(part, TextPart)]
        num_images = len(document.content) - len(texts)
        if num_images > card.max_images:
            raise Problem("too_many_images", param="content", limit=card.max_images)
        if card.least_tokens(texts, num_images) > card.max_prompt_tokens:
            raise ContextTooLong(param="content")

    async def _image(
        self,
        part: ImagePart,
        param: str,
        uploads: dict[str, bytes],
        owner: str,
        budget: PixelBudget,
    ) -> str:
        """Store one image of the content; returns its hash."""
        if part.sha256 is not None:
            await self._images.check(owner, part.sha256)
            return part.sha256
        if part.upload is not None:
            param = f"{param}.upload"
            if part.upload not in uploads:
                raise Problem("unknown_upload", param=param)
            data = uploads[part.upload]
        elif part.b64 is not None:
            param = f"{param}.b64"
            data = decode_base64(part.b64, param, self._limits)
        else:
            url, param = part.url or "", f"{param}.url"
            if url.startswith("data:"):
                data = decode_base64(url, param, self._limits)
            else:
                data = await self._fetcher.fetch(url, param)
        async with self._decoding:
            image = await asyncio.to_thread(clean_image, data, param, budget)
        return await self._images.add(owner, image.data)

    def _request(
        self,
        document: GenerateRequest,
        content: tuple[messages.TextPart | messages.ImagePart, ...],
        owner: str,
        envelope: Envelope,
    ) -> messages.Request:
        image, seed = document.image, document.image.seed
        if seed is None:
            seed = document.seed if document.seed is not None else secrets.randbits(32)
        return messages.Request(
            owner=owner,
            content=content,
            output_modalities=tuple(dict.fromkeys(document.output_modalities)),
            sampling=sampling_params(document),
            image=image_params(image, seed),
            draw_now=document.draw_now,
            limits=messages.AnswerLimits(
                max_tokens=document.max_tokens, max_images=document.max_images
            ),
            n=document.n,
            priority=document.priority,
            deadline_ms=document.deadline_ms or self._defaults.deadline_ms,
            stream=document.stream,
            cancel_on_disconnect=not document.background
            and (document.on_disconnect or self._defaults.on_disconnect) == "cancel",
            model=document.model,
            traceparent=envelope.traceparent,
        )


def sampling_params(document: GenerateRequest) -> SamplingParams:
    names = {field.name for field in fields(SamplingParams)} - {"stop", "logit_bias"}
    return SamplingParams(
        **document.model_dump(include=names),
        stop=tuple(document.stop),
        logit_bias={int(token): bias for token, bias in document.logit_bias.items()},
    )


def image_params(image: ImageOptions, seed: int) -> messages.RequestImageParams:
    """How images are generated; steps and scheduler are the quality's unless they are given."""
    quality = QUALITIES[image.quality]
    return messages.RequestImageParams(
        width=image.width,
        height=image.height,
        num_inference_steps=image.steps or quality.steps,
        guidance_scale=image.guidance_scale,
        guidance_rescale=image.guidance_rescale,
        scheduler=image.scheduler or quality.scheduler,
        seed=seed,
        num_previews=image.previews,
        format=image.format,
        returns=image.return_,
    )
