"""A client with little overhead: one connection per request, every line with its time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from model.engine.protocol import TextEngine
from model.sampling_params import SamplingParams
from service.messages import TERMINAL_EVENTS


@dataclass
class Reading:
    """The deltas of one stream as they arrived; times in ms."""

    first_ms: float = 0.0
    last_ms: float = 0.0
    delays_ms: list[float] = field(default_factory=list)

    def note(self, started_ns: int, text: str) -> None:
        """Record a delta, whose text is the times at which the engine made its tokens."""
        now = time.monotonic_ns()
        self.last_ms = (now - started_ns) / 1e6
        self.first_ms = self.first_ms or self.last_ms
        self.delays_ms += [(now - int(stamp)) / 1e6 for stamp in text.split()]


@dataclass(frozen=True)
class ResponseHead:
    """A response without its body."""

    status: int
    headers: dict[str, str]
    ms: float


def _request(port: int, tokens: int) -> bytes:
    document = {
        "content": [{"type": "text", "text": "x"}],
        "max_tokens": tokens,
        "output_modalities": ["text"],
        "stream": True,
    }
    body = json.dumps(document)
    head = f"POST /generate HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def read_direct(engine: TextEngine, tokens: int) -> Reading:
    """Read from an engine in this process."""
    started, reading = time.monotonic_ns(), Reading()
    async for item in engine.generate((), SamplingParams(), "direct", tokens):
        if hasattr(item, "text"):
            reading.note(started, item.text)
    return reading


@contextlib.asynccontextmanager
async def _sent(port: int, tokens: int) -> AsyncIterator[tuple[asyncio.StreamReader, int]]:
    """Send a request over a new connection: its response, and the time of sending in ns."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        started_ns = time.monotonic_ns()
        writer.write(_request(port, tokens))
        yield reader, started_ns
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_stream(port: int, tokens: int) -> Reading:
    """Send a request to the gateway, and read its stream to the end."""
    reading = Reading()
    async with _sent(port, tokens) as (reader, started_ns):
        async for line in reader:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event["type"] == "text.delta":
                    reading.note(started_ns, event["text"])
                elif event["type"].startswith("response.co"):
                    break
    return reading


async def read_names(port: int, tokens: int) -> AsyncIterator[str]:
    """The status line of a response, then the name of each event."""
    async with _sent(port, tokens) as (reader, _):
        yield (await reader.readline()).decode().strip()
        async for line in reader:
            if line.startswith(b"event: "):
                name = line[7:].decode().strip()
                yield name
                if name in TERMINAL_EVENTS:
                    return


async def read_head(port: int, tokens: int) -> ResponseHead:
    """Send a request, read the head of the response, and close the connection."""
    async with _sent(port, tokens) as (reader, started_ns):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        ms = (time.monotonic_ns() - started_ns) / 1e6
    status, *lines = head.strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return ResponseHead(int(status.split()[1]), headers, ms)
