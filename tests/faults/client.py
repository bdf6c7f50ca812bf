"""A client as the documentation tells to write one: it tries again and resumes, and notes all."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import time
import uuid
from dataclasses import dataclass, field

import httpx
from PIL import Image

from tests.faults.engines import expected_answer

_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


@dataclass
class Story:
    """One request: what was asked, and every event that came, with its time."""

    prompt: str
    seed: int
    slow_s: float = 0.0
    request_id: str = ""
    events: list[tuple[float, str, dict]] = field(default_factory=list)
    resumes: int = 0
    restarts: int = 0
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def terminal(self) -> str:
        return self.events[-1][2]["type"] if self.events else ""

    @property
    def done(self) -> bool:
        return self.terminal in _TERMINAL

    def parts(self) -> list[object]:
        """The answer that the events tell."""
        parts: list[object] = []
        for _, kind, data in self.events:
            if kind == "part.start":
                if data["index"] != len(parts):
                    raise AssertionError("a part began twice, or out of order")
                parts.append("")
            elif kind == "text.delta":
                parts[-1] += data["text"]
            elif kind == "image.done":
                picture = Image.open(io.BytesIO(base64.b64decode(data["b64"])))
                parts[-1] = picture.convert("RGB").getpixel((0, 0))
        return parts

    def expected(self) -> list[object]:
        return list(expected_answer(self.prompt, self.seed))

    def numbers(self) -> list[int]:
        return [data["sequence_number"] for _, _, data in self.events]


class Client:
    """Asks the gateways in turn."""

    def __init__(self, gateways: list[str], steps: int = 6) -> None:
        self._gateways = itertools.cycle(gateways)
        self._steps = steps
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(
            trust_env=False, limits=limits, timeout=httpx.Timeout(20, connect=2)
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def tell(self, story: Story, give_up_s: float = 120) -> None:
        """Ask, and follow to the end whatever happens on the way."""
        give_up = time.monotonic() + give_up_s
        while not story.done and time.monotonic() < give_up:
            try:
                await (self._resume(story) if story.request_id else self._ask(story))
            except (httpx.HTTPError, json.JSONDecodeError):
                await asyncio.sleep(0.1)
            story.resumes += not story.done

    def _body(self, story: Story) -> dict:
        return {
            "content": [{"type": "text", "text": story.prompt}],
            "image": {"steps": self._steps, "seed": story.seed},
            "stream": True,
        }

    async def _ask(self, story: Story) -> None:
        async with self._http.stream(
            "POST",
            f"{next(self._gateways)}/generate",
            json=self._body(story),
            headers={"Idempotency-Key": story.key},
        ) as response:
            if response.status_code != 200:
                await asyncio.sleep(0.2)
                return
            await self._read(story, response)

    async def _resume(self, story: Story) -> None:
        headers = {"Last-Event-ID": story.events[-1][1]} if story.events else {}
        async with self._http.stream(
            "GET",
            f"{next(self._gateways)}/v1/requests/{story.request_id}/events",
            headers=headers and {"Last-Event-ID": self._last_id(story)},
        ) as response:
            if response.status_code == 404:
                # A failover has lost the request itself: the same key asks for it again.
                story.events.clear()
                story.request_id = ""
                story.restarts += 1
                return
            if response.status_code == 410:
                # Redis has lost what came after its last write to disk: the answer starts again.
                story.events.clear()
                story.restarts += 1
                return
            if response.status_code != 200:
                await asyncio.sleep(0.2)
                return
            await self._read(story, response)

    def _last_id(self, story: Story) -> str:
        return story.events[-1][2]["_id"]

    async def _read(self, story: Story, response: httpx.Response) -> None:
        event_id = ""
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                data = json.loads(line[6:])
                data["_id"] = event_id
                story.request_id = data["request_id"]
                story.events.append((time.monotonic(), data["type"], data))
                if story.slow_s:
                    await asyncio.sleep(story.slow_s)
