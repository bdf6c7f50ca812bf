"""The text stage: continues an answer with text, up to its end or its next image."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace

import safetensors.torch

from model.engine import protocol
from model.engine.protocol import TextEnd, TextEngine
from model.processor import ChatTemplateError
from model.sampling_params import ImageMode, SamplingParams
from model.segments import RoleSegment, Segment, TextSegment, TokenSegment
from service import loop
from service.broker.blobs import BlobStore
from service.broker.model_card import publish
from service.broker.redis.connection import Broker
from service.broker.stream.events import read_events
from service.broker.turns.attempt import Attempt
from service.broker.turns.leases import Leases
from service.config import TextWorkerSettings
from service.errors import ContextTooLong, InvalidRequest
from service.messages import (
    Event,
    ImagePart,
    ImageTask,
    ModelCard,
    PartDoneEvent,
    RolePart,
    Stage,
    TextDeltaEvent,
    TextResult,
    count_words,
)
from service.telemetry import tracing
from service.telemetry.log import configure
from service.telemetry.metrics import TOKEN_KINDS, TOKENS, start_at_zero
from service.telemetry.tracing import Phases
from service.workers.base import Worker
from service.workers.checkpoint import choose_checkpoint
from service.workers.images import ImageCache
from service.workers.process import consumer_name, end_on_signal
from service.workers.text.deltas import DeltaWriter, Said
from service.workers.turns.answer import Answer

_ROLES_REFUSED = "The model does not take messages of these roles in this order."


class TextTurns:
    """Runs text turns on an engine."""

    stage: Stage = "text"

    def __init__(self, engine: TextEngine, leases: Leases, broker: Broker) -> None:
        self.engine = engine
        self._leases = leases
        self._broker = broker
        self._blobs = BlobStore(broker)
        self._images = ImageCache(self._blobs)
        start_at_zero(TOKENS, TOKEN_KINDS)

    async def announce(self) -> None:
        await publish(self._broker, await asyncio.to_thread(card_of, self.engine.limits()))

    async def run(self, attempt: Attempt) -> None:
        async with asyncio.timeout(attempt.deadline - time.monotonic()):
            answer = Answer(attempt.status)
            streamed = await self._streamed(attempt)
            resume = tuple(streamed.token_ids)
            writer = DeltaWriter(self._leases, attempt, answer.next_index, streamed)
            async with aclosing(writer):
                end = await self._generate(attempt, answer, writer, resume)
            with tracing.span("commit"):
                await self._commit(attempt, answer, writer, end)

    async def _generate(
        self, attempt: Attempt, answer: Answer, writer: DeltaWriter, resume: tuple[int, ...]
    ) -> TextEnd:
        """Stream the turn's text; returns how it ended."""
        request, images = attempt.request, image_mode_of(attempt)
        phases = Phases("image tokens" if images == "force" else "prefill")
        stream = self.engine.generate(
            await self._context(attempt),
            sampling_of(attempt),
            f"{attempt.request_id}/{attempt.task.turn}/{attempt.fence}",
            max_tokens=max(1, answer.tokens_left),
            images=images,
            resume=resume,
            priority=0 if request.priority == "interactive" else 1,
        )
        async with aclosing(stream) as items:  # type: ignore[type-var]
            try:
                async for item in items:
                    if isinstance(item, TextEnd):
                        await writer.finish()
                        trace_end(phases, item)
                        return item
                    phases.continue_with("decode")
                    writer.add(item.text, item.token_ids, item.scores)
            except ChatTemplateError as error:
                raise InvalidRequest(_ROLES_REFUSED) from error
            except ValueError as error:
                if not answer.results and not writer.started:
                    raise ContextTooLong from error
                return TextEnd("length", 0, 0, 0)  # the answer has outgrown the context
        raise RuntimeError("the engine ended without saying how")

    async def _context(self, attempt: Attempt) -> tuple[Segment, ...]:
        """The request's content, then the answer so far."""
        segments: list[Segment] = []
        for part in attempt.request.content:
            if isinstance(part, ImagePart):
                segments.append(await self._images.segment(part.sha256))
            elif isinstance(part, RolePart):
                segments.append(RoleSegment(part.role))
            else:
                segments.append(TextSegment(part.text))
        segments.append(RoleSegment("assistant"))
        for result in attempt.status.results:
            if isinstance(result, TextResult):
                segments.append(TokenSegment(result.token_ids))
            else:
                segments.append(await self._images.segment(result.sha256))
        return tuple(segments)

    async def _streamed(self, attempt: Attempt) -> Said:
        """The text that earlier attempts at this turn have streamed."""
        said, cursor = Said(), attempt.cursor
        if attempt.open_part is None:
            return said
        while events := await read_events(self._broker, attempt.request_id, cursor):
            for event in events:
                if event.type != "text.delta":
                    continue
                data = event.data
                if data.pop("choice", None) == attempt.choice:
                    delta = TextDeltaEvent(**data)
                    said.add(delta.text, event.token_ids, delta.logprobs or ())
            cursor = events[-1].id
        return said

    async def _commit(
        self, attempt: Attempt, answer: Answer, writer: DeltaWriter, end: TextEnd
    ) -> None:
        """Store the text, and enqueue the image task or end the request."""
        if attempt.task.turn == 0:
            answer.bill_prompt(end.num_prompt_tokens, end.num_cached_tokens)
        said = writer.said
        answer.bill_text(len(said.token_ids))
        events: list[tuple[Event, str]] = writer.rest()
        if writer.started:
            scored = attempt.request.sampling.logprobs is not None
            result = TextResult(
                text=said.text,
                token_ids=tuple(said.token_ids),
                logprobs=tuple(said.scores) if scored else None,
            )
            events.append((PartDoneEvent(index=answer.next_index), ""))
            answer.add(result)
        task = None
        if end.reason == "image" and answer.images_left > 0:
            task = await self._image_task(attempt, answer, end)
        elif end.reason == "image":
            events += answer.incomplete("max_images")
        elif end.reason == "stop":
            events += answer.complete()
        else:
            spent = answer.tokens_left <= 0
            events += answer.incomplete("max_tokens" if spent else "context_length")
        await self._leases.commit(
            attempt,
            events,
            next_task=task,
            state=answer.state,
            text_work=len(said.token_ids),
            fields=answer.fields(),
        )

    async def _image_task(self, attempt: Attempt, answer: Answer, end: TextEnd) -> ImageTask:
        """The task that generates the image that the text has begun."""
        assert end.image_tokens is not None
        data = safetensors.torch.save({"image_tokens": end.image_tokens.contiguous()})
        return ImageTask(
            request_id=attempt.request_id,
            turn=attempt.task.turn + 1,
            index=answer.next_index,
            image_tokens=await self._blobs.put(data),
            previous_image=answer.previous_image(end.anchored),
            seed=(attempt.request.image.seed + answer.usage.images) % 2**63,
            traceparent=attempt.task.traceparent,
        )


def card_of(limits: protocol.TextLimits) -> ModelCard:
    """The card that gateways need of a model."""
    return ModelCard(
        max_prompt_tokens=limits.max_prompt_tokens,
        max_images=limits.max_images,
        tokens_per_image=limits.tokens_per_image,
        words_per_token=max(map(count_words, limits.vocabulary), default=0),
        characters_per_token=max(map(len, limits.vocabulary), default=0),
    )


def trace_end(phases: Phases, end: TextEnd) -> None:
    """Record the spans of a turn, and what it consumed in its own."""
    if end.reason == "image":
        # From the last token on, the engine has made image tokens.
        phases.begin_at_last("image tokens")
    phases.record()
    tracing.annotate(
        {
            "gen_ai.usage.input_tokens": end.num_prompt_tokens,
            "gen_ai.usage.output_tokens": end.num_output_tokens,
            "gen_ai.usage.cache_read.input_tokens": end.num_cached_tokens,
            "gen_ai.response.finish_reasons": (end.reason,),
        }
    )


def sampling_of(attempt: Attempt) -> SamplingParams:
    """The request's sampling parameters, with the turn's own seed."""
    params, turn = attempt.request.sampling, attempt.task.turn
    return replace(
        params,
        min_tokens=params.min_tokens if turn == 0 else 0,
        # Each turn has random numbers of its own, the same ones in each attempt.
        seed=None if params.seed is None else (params.seed + turn) % 2**63,
    )


def image_mode_of(attempt: Attempt) -> ImageMode:
    """Whether this turn may, must or must not begin an image."""
    modalities = attempt.request.output_modalities
    if "text" not in modalities or (attempt.request.draw_now and attempt.task.turn == 0):
        return "force"
    return "allow" if "image" in modalities else "forbid"


def main(settings: TextWorkerSettings) -> int:
    """The process of `mmi text-worker`.

    Of an engine on several hosts, only the first host takes turns.
    """
    end_on_signal()
    configure("text-worker", settings.log_level)
    from model.engine.text.engine import VllmTextEngine
    from model.engine.text.options import TextEngineOptions
    from model.engine.text.startup.follower import RankHolder
    from service.workers.text import metrics
    from service.workers.text.follower import follow

    options = TextEngineOptions(
        checkpoint=choose_checkpoint(settings.checkpoint, settings.cache_dir),
        cache_dir=settings.cache_dir,
        dtype=settings.dtype,
        max_num_seqs=settings.concurrency,
        kv_cache_bytes=settings.kv_cache_mib << 20,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        image_concurrency=settings.image_concurrency,
        max_model_len=settings.max_model_len,
        tensor_parallel_size=settings.tensor_parallel_size,
        num_hosts=settings.num_hosts,
        host_rank=settings.host_rank,
        leader_address=settings.leader_address,
        compile=settings.compile,
        kernel=settings.kernel,
    )
    if settings.host_rank > 0:
        return loop.run(follow(settings, RankHolder(options)))
    engine = VllmTextEngine(options)
    metrics.export(engine)
    return loop.run(create(settings, engine).run())


def create(settings: TextWorkerSettings, engine: TextEngine) -> Worker:
    """A text worker on `engine`."""
    broker = Broker(settings)
    leases = Leases(
        broker,
        "text",
        consumer_name(),
        settings.lease_s,
        settings.max_deliveries,
        settings.flush_interval_s,
    )
    return Worker(settings, broker, leases, TextTurns(engine, leases, broker))
