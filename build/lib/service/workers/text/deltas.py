"""Streams a turn's text to Redis, with at most one append in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from model.sampling_params import TokenScore
from service.broker.turns.attempt import Attempt
from service.broker.turns.leases import Leases
from service.messages import Event, PartStartEvent, TextDeltaEvent


@dataclass
class Said:
    """Text with its token ids and, if requested, their scores."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)

    def add(self, text: str, token_ids: Sequence[int], scores: Sequence[TokenScore] = ()) -> None:
        self.text += text
        self.token_ids += token_ids
        self.scores += scores


class DeltaWriter:
    """Collects tokens while an append is in flight; the next append sends them."""

    def __init__(self, leases: Leases, attempt: Attempt, index: int, said: Said) -> None:
        """Start after `said`, the text that earlier attempts have streamed."""
        self._leases = leases
        self._attempt = attempt
        self._index = index
        self.said = said
        self.started = attempt.open_part is not None
        self._pending = Said()
        self._sending: asyncio.Task[None] | None = None
        self._finishing = False

    def add(self, text: str, token_ids: Sequence[int], scores: Sequence[TokenScore] = ()) -> None:
        """Add a delta, without waiting for its append.

        Raises:
            StaleAttempt: another attempt holds the turn, or the request has ended.
            ConnectionLost: Redis was unreachable.
        """
        self.said.add(text, token_ids, scores)
        self._pending.add(text, token_ids, scores)
        if self._sending is not None and self._sending.done():
            self._sending.result()
            self._sending = None
        # Token ids without text wait for the text that they belong to.
        if self._sending is None and self._pending.text:
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._pending.text and not self._finishing:
            await self._leases.append(
                self._attempt,
                self.rest(),
                open=self._index,
                streamed=len(self.said.token_ids) - len(self._pending.token_ids),
            )

    async def finish(self) -> None:
        """Wait for the append in flight; the rest is for the turn's commit."""
        self._finishing = True
        if self._sending is not None:
            await self._sending

    async def aclose(self) -> None:
        """Stop sending; an append in flight is stored or refused."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    def rest(self) -> list[tuple[Event, str]]:
        """The events of the collected tokens, which count as sent from now on."""
        new = self._pending
        if not new.text and not (self.started and new.scores):
            return []
        delta = TextDeltaEvent(
            index=self._index, text=new.text, logprobs=tuple(new.scores) if new.scores else None
        )
        events: list[tuple[Event, str]] = [(delta, ",".join(map(str, new.token_ids)))]
        if not self.started:
            events.insert(0, (PartStartEvent(index=self._index, kind="text"), ""))
            self.started = True
        self._pending = Said()
        return events
