"""Text turns on a real broker, with an engine that yields what a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

from model.engine.protocol import TextDelta, TextEnd, TextLimits
from model.processor import ChatTemplateError
from model.sampling_params import ImageMode, SamplingParams, TokenScore
from model.segments import ImageSegment, RoleSegment, Segment, TextSegment
from service.bench.gateway.echo import EchoEngine
from service.broker.blobs import BlobStore
from service.broker.redis.connection import Broker
from service.broker.stream.events import read_events
from service.broker.turns.attempt import Attempt, Delivery
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.errors import ContextTooLong, InvalidRequest
from service.messages import (
    AnswerLimits,
    ImagePart,
    ImageResult,
    ImageTask,
    Request,
    RequestImageParams,
    RequestStatus,
    RolePart,
    StoredEvent,
    TextPart,
    TextTask,
    decode_task,
)
from service.workers.images import encode
from service.workers.text.deltas import DeltaWriter, Said
from service.workers.text.worker import TextTurns, card_of, image_mode_of, sampling_of

TOKENS = torch.arange(77 * 2.0).view(77, 2)
DRAW = TextEnd("image", 5, 2, 1, TOKENS)
STOP = TextEnd("stop", 5, 2, 1)
Item = TextDelta | TextEnd | Exception


class Scripted(EchoEngine):
    """Yields these items, or raises them, and notes what it was asked."""

    def __init__(self, *items: Item) -> None:
        super().__init__()
        self.items = items
        self.asked: dict[str, Any] = {}

    async def generate(
        self,
        context: tuple[Segment, ...],
        sampling: SamplingParams,
        request_id: str,
        max_tokens: int = 256,
        images: ImageMode = "allow",
        resume: tuple[int, ...] = (),
        priority: int = 0,
    ) -> AsyncIterator[TextDelta | TextEnd]:
        self.asked = {
            "context": context, "max_tokens": max_tokens, "images": images,
            "resume": resume, "priority": priority,
        }  # fmt: skip
        for item in self.items:
            await asyncio.sleep(0)  # As an engine of another process lets appends begin.
            if isinstance(item, Exception):
                raise item
            yield item


class Turn:
    """The next text turn of a request, on a worker of its own."""

    def __init__(self, broker: Broker, queue: Queue) -> None:
        self.broker, self.queue = broker, queue
        self.leases = Leases(broker, "text", "w", 60, 5)

    async def begin(self, request: Request) -> Attempt:
        await self.queue.enqueue(request)
        return await self.claim()

    async def claim(self) -> Attempt:
        [delivery] = await self.leases.claim(0, 1)
        attempt = await self.leases.begin(delivery)
        assert attempt is not None
        return attempt

    async def run(self, attempt: Attempt, *items: Item) -> Scripted:
        engine = Scripted(*items)
        await TextTurns(engine, self.leases, self.broker).run(attempt)
        return engine

    async def events(self, request: Request) -> list[StoredEvent]:
        return list(await read_events(self.broker, request.request_id, "0"))

    async def end(self, request: Request) -> tuple[str, dict[str, Any]]:
        last = (await self.events(request))[-1]
        return last.type, last.data


@pytest.fixture
def turn(broker: Broker, queue: Queue) -> Turn:
    return Turn(broker, queue)


def request_of(text: str = "x", **fields: Any) -> Request:
    return Request(content=(TextPart(text=text),), **fields)


async def test_the_context_is_the_content_in_order_then_the_answers_role(turn: Turn) -> None:
    picture = Image.new("RGB", (4, 3), (1, 2, 3))
    digest = await BlobStore(turn.broker).put(encode(picture, "png"))
    content = (
        RolePart(role="system"),
        TextPart(text="Be brief."),
        RolePart(role="user"),
        ImagePart(sha256=digest),
    )
    attempt = await turn.begin(Request(content=content, priority="batch"))
    engine = await turn.run(attempt, STOP)
    *before, image, role = engine.asked["context"]
    assert before == [RoleSegment("system"), TextSegment("Be brief."), RoleSegment("user")]
    assert isinstance(image, ImageSegment) and role == RoleSegment("assistant")
    assert image.digest == digest and image.image.getpixel((0, 0)) == (1, 2, 3)
    assert engine.asked["priority"] == 1


async def test_the_image_that_the_text_begins_becomes_a_task(turn: Turn) -> None:
    given = await BlobStore(turn.broker).put(encode(Image.new("RGB", (4, 3)), "png"))
    request = Request(
        content=(ImagePart(sha256=given), TextPart(text="x")),
        image=RequestImageParams(seed=2**63 - 1),
    )
    attempt = await turn.begin(request)
    await turn.run(attempt, TextDelta("Look: ", (7, 8)), DRAW)
    [delivery] = await Leases(turn.broker, "image", "w", 60, 5).claim(0, 1)
    task = decode_task(delivery.payload)
    assert isinstance(task, ImageTask)
    assert (task.turn, task.index, task.seed) == (1, 1, 2**63 - 1)
    assert task.previous_image == given
    stored = safetensors.torch.load(await BlobStore(turn.broker).get(task.image_tokens))
    assert torch.equal(stored["image_tokens"], TOKENS)
    status = await turn.queue.status(request.request_id)
    assert not status.terminal
    assert [(r.text, r.token_ids) for r in status.results] == [("Look: ", (7, 8))]
    assert (status.usage.prompt_tokens, status.usage.cached_tokens) == (5, 2)
    assert status.usage.output_tokens == 2


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("with_portrait", [False, True])
async def test_a_later_image_reads_the_one_before_it_or_the_anchor(
    turn: Turn, anchored: bool, with_portrait: bool
) -> None:
    blobs = BlobStore(turn.broker)
    colours = ("red", "green", "blue")
    portrait, *pages = [
        await blobs.put(encode(Image.new("RGB", (4, 3), colour), "png")) for colour in colours
    ]
    content = (ImagePart(sha256=portrait),) if with_portrait else ()
    attempt = await turn.begin(Request(content=(*content, TextPart(text="x"))))
    drawn = tuple(
        ImageResult(sha256=page, mime="image/png", width=4, height=3, seed=1) for page in pages
    )
    later = replace(attempt, status=attempt.status.model_copy(update={"results": drawn}))
    await turn.run(later, replace(DRAW, anchored=anchored))
    [delivery] = await Leases(turn.broker, "image", "w", 60, 5).claim(0, 1)
    task = decode_task(delivery.payload)
    assert isinstance(task, ImageTask)
    anchor = portrait if with_portrait else pages[0]
    assert task.previous_image == (anchor if anchored else pages[-1])


async def test_an_image_without_text_before_it_leaves_no_empty_part(turn: Turn) -> None:
    request = request_of(draw_now=True)
    engine = await turn.run(await turn.begin(request), DRAW)
    assert engine.asked["images"] == "force"
    assert not (await turn.queue.status(request.request_id)).results
    [delivery] = await Leases(turn.broker, "image", "w", 60, 5).claim(0, 1)
    assert decode_task(delivery.payload).index == 0
    assert not [e for e in await turn.events(request) if e.type.startswith("part.")]


@pytest.mark.parametrize(
    ("items", "limits", "end"),
    [
        ((STOP,), {}, ("response.completed", None)),
        ((DRAW,), {"max_images": 0}, ("response.incomplete", "max_images")),
        ((TextEnd("length", 5, 0, 2),), {"max_tokens": 2}, ("response.incomplete", "max_tokens")),
        ((TextEnd("length", 5, 0, 2),), {}, ("response.incomplete", "context_length")),
        # The answer has outgrown the context: what was said stays.
        ((ValueError("too long"),), {}, ("response.incomplete", "context_length")),
    ],
)
async def test_what_ends_an_answer_is_told(
    turn: Turn, items: tuple[Item, ...], limits: dict[str, int], end: tuple[str, str | None]
) -> None:
    request = request_of(limits=AnswerLimits(**limits))
    attempt = await turn.begin(request)
    said = TextDelta("two words", (1, 2))
    await turn.run(attempt, said, *items)
    kind, data = await turn.end(request)
    assert (kind, data.get("reason")) == end
    status = await turn.queue.status(request.request_id)
    assert [result.text for result in status.results] == ["two words"]


@pytest.mark.parametrize(
    ("error", "told", "message"),
    [
        (ValueError("9000 tokens"), ContextTooLong, "does not fit"),
        (ChatTemplateError("roles must alternate"), InvalidRequest, "roles in this order"),
    ],
)
async def test_a_context_that_is_refused_is_the_clients_error_in_our_words(
    turn: Turn, error: Exception, told: type[Exception], message: str
) -> None:
    attempt = await turn.begin(request_of())
    with pytest.raises(told, match=message):
        await turn.run(attempt, error)


async def test_an_engine_that_ends_without_an_end_is_an_error(turn: Turn) -> None:
    attempt = await turn.begin(request_of())
    with pytest.raises(RuntimeError, match="without saying how"):
        await turn.run(attempt, TextDelta("so", (1,)))


async def test_a_turn_ends_at_its_deadline(turn: Turn) -> None:
    attempt = await turn.begin(request_of())
    attempt.deadline = time.monotonic() - 1
    with pytest.raises(TimeoutError):
        await turn.run(attempt, STOP)


async def test_a_second_attempt_continues_what_its_own_choice_has_said(turn: Turn) -> None:
    request = request_of(n=2, sampling=SamplingParams(logprobs=0))
    attempts = [await turn.begin(request), await turn.claim()]
    assert [attempt.choice for attempt in attempts] == [0, 1]
    for number, attempt in enumerate(attempts):
        writer = DeltaWriter(turn.leases, attempt, 0, Said())
        for position in range(2):
            token = 10 * number + position
            writer.add(f"{token} ", (token,), (TokenScore(f"{token} ", -1.0),))
            while writer._pending.text:
                await asyncio.sleep(0.001)
        await writer.finish()
    await turn.leases.nack(attempts[1].delivery, attempts[1].fence)
    [delivery] = await turn.leases.reclaim(1)
    again = await turn.leases.begin(delivery)
    assert again is not None
    score = TokenScore("12 ", -1.0)
    engine = await turn.run(again, TextDelta("12 ", (12,), (score,)), STOP)
    assert engine.asked["resume"] == (10, 11)
    [result] = (await turn.queue.status(f"{request.request_id}.1")).results
    assert (result.text, result.token_ids) == ("10 11 12 ", (10, 11, 12))
    assert [one.token for one in result.logprobs] == ["10 ", "11 ", "12 "]
    events = [e.data for e in await turn.events(request) if e.data.get("choice") == 1]
    texts = [data["text"] for data in events if "text" in data]
    assert "".join(texts) == "10 11 12 "


def attempt_at(turn: int, **fields: Any) -> Attempt:
    request = request_of(**fields)
    status = RequestStatus(
        request=request, state="running", turn=turn, created_ms=0, deadline_at_ms=0
    )
    task = TextTask(request_id=request.request_id, turn=turn)
    return Attempt(Delivery("s", 0, "1-0", b""), task, "f", 0.0, 1, status, {}, 0)


@pytest.mark.parametrize(
    ("fields", "first", "later"),
    [
        ({}, "allow", "allow"),
        ({"draw_now": True}, "force", "allow"),
        ({"output_modalities": ("text",)}, "forbid", "forbid"),
        ({"output_modalities": ("image",)}, "force", "force"),
    ],
)
def test_whether_a_turn_draws(fields: dict[str, Any], first: ImageMode, later: ImageMode) -> None:
    assert image_mode_of(attempt_at(0, **fields)) == first
    assert image_mode_of(attempt_at(2, **fields)) == later


def test_each_turn_has_a_seed_of_its_own_and_only_the_first_a_least_length() -> None:
    given = SamplingParams(min_tokens=9, seed=2**63 - 1, top_k=3)
    made: Callable[[int], SamplingParams] = lambda turn: sampling_of(  # noqa: E731
        attempt_at(turn, sampling=given)
    )
    assert made(0) == given
    assert (made(2).seed, made(2).min_tokens, made(2).top_k) == (1, 0, 3)
    unseeded = sampling_of(attempt_at(2, sampling=SamplingParams()))
    assert unseeded.seed is None


def test_the_card_bounds_words_and_characters_of_a_token() -> None:
    card = card_of(TextLimits(100, 8, 17, ("it's", "-----", "word")))
    assert (card.words_per_token, card.characters_per_token) == (2, 5)
    unknown = card_of(TextLimits(100, 8, 17))
    assert (unknown.words_per_token, unknown.characters_per_token) == (0, 0)
