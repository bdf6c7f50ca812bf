"""The content of a request: checked against the limits and the model, its images stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from service.broker.model_card import ModelCards
from service.errors import ContextTooLong
from service.gateway.api.schemas import ContentInput, ImageInput, TextInput
from service.gateway.images.cleaning import PixelBudget, clean_image, decode_base64
from service.gateway.images.fetch import UrlFetcher
from service.gateway.images.library import ImageLibrary
from service.gateway.intake.body import IntakeLimits
from service.gateway.problems import Problem
from service.messages import ContentPart, ImagePart


class ContentIntake:
    """Turns validated content into the content of a queued request."""

    def __init__(
        self, images: ImageLibrary, fetcher: UrlFetcher, cards: ModelCards, limits: IntakeLimits
    ) -> None:
        self._images, self._fetcher = images, fetcher
        self._cards, self._limits = cards, limits
        # Decoding is bounded so that a few large images cannot take all memory at once.
        self._decoding = asyncio.Semaphore(2)

    async def accept(
        self, content: Sequence[ContentInput], uploads: dict[str, bytes], owner: str
    ) -> tuple[ContentPart, ...]:
        """Check the content as a whole, then store its images.

        Raises:
            Problem, ContextTooLong, BlobNotFound: the content is refused.
        """
        await self._check(content, uploads)
        budget = PixelBudget(self._limits.image)
        parts: list[ContentPart] = []
        for position, part in enumerate(content):
            if isinstance(part, ImageInput):
                param = f"content[{position}]"
                sha256 = await self._store(part, param, uploads, owner, budget)
                parts.append(ImagePart(sha256=sha256))
            else:
                parts.append(part)
        return tuple(parts)

    async def _check(self, content: Sequence[ContentInput], uploads: dict[str, bytes]) -> None:
        """Refuse what surely does not fit; the worker, which tokenises, refuses the rest."""
        texts = [part.text for part in content if isinstance(part, TextInput)]
        images = [part for part in content if isinstance(part, ImageInput)]
        limits = self._limits
        if sum(map(len, texts)) > limits.text_characters:
            raise Problem("text_too_long", param="content", limit=limits.text_characters)
        if len(images) > limits.images:
            raise Problem("too_many_images", param="content", limit=limits.images)
        if unused := set(uploads) - {image.upload for image in images}:
            raise Problem("unused_upload", param=min(unused))
        card = await self._cards.current()
        if card is None:
            return
        if len(images) > card.max_images:
            raise Problem("too_many_images", param="content", limit=card.max_images)
        if card.least_tokens(texts, len(images)) > card.max_prompt_tokens:
            raise ContextTooLong(param="content")

    async def _store(
        self,
        part: ImageInput,
        param: str,
        uploads: dict[str, bytes],
        owner: str,
        budget: PixelBudget,
    ) -> str:
        """Store one image; returns its hash."""
        if part.sha256 is not None:
            await self._images.check(owner, part.sha256)
            return part.sha256
        param, data = await self._read(part, param, uploads)
        async with self._decoding:
            image = await asyncio.to_thread(clean_image, data, param, budget)
        return await self._images.add(owner, image.data)

    async def _read(
        self, part: ImageInput, param: str, uploads: dict[str, bytes]
    ) -> tuple[str, bytes]:
        """The field that gives the image, and the bytes."""
        if part.upload is not None:
            param = f"{param}.upload"
            if part.upload not in uploads:
                raise Problem("unknown_upload", param=param)
            return param, uploads[part.upload]
        if part.b64 is not None:
            param = f"{param}.b64"
            return param, decode_base64(part.b64, param, self._limits.image)
        url, param = part.url or "", f"{param}.url"
        if url.startswith("data:"):
            return param, decode_base64(url, param, self._limits.image)
        return param, await self._fetcher.fetch(url, param)
