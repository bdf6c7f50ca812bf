"""Send a request to a gateway and read the answer while it streams."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.errors import ServiceError
from service.messages.event import TERMINAL_EVENTS

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
EventDocument = dict[str, Any]


class RequestRefused(ServiceError):
    """The gateway refused the request, or the stream broke for good."""


@dataclass(frozen=True)
class Given:
    """One part of the request: text, or the file of an image."""

    text: str | None = None
    path: Path | None = None


def read_arguments(arguments: list[str]) -> list[Given]:
    """Read command-line arguments in order. `@name` and the name of an existing image are files.

    Raises:
        ValueError: a file named with @ does not exist, or there is nothing to send.
    """
    parts = []
    for argument in arguments:
        path = Path(argument.removeprefix("@"))
        explicit = argument.startswith("@")
        if explicit and not path.is_file():
            raise ValueError(f"there is no file {path}")
        looks_like_file = len(argument) < 1024 and path.suffix.lower() in IMAGE_SUFFIXES
        if explicit or (looks_like_file and path.is_file()):
            parts.append(Given(path=path))
        elif argument:
            parts.append(Given(text=argument))
    if not parts:
        raise ValueError("nothing to continue: give a text or an image file")
    return parts


def content_of(parts: list[Given]) -> list[dict[str, str]]:
    """The `content` of a request document."""
    content = []
    for part in parts:
        if part.path is not None:
            b64 = base64.b64encode(part.path.read_bytes()).decode()
            content.append({"type": "image", "b64": b64})
        else:
            content.append({"type": "text", "text": part.text or ""})
    return content


def split_choice(event: EventDocument) -> tuple[int | None, EventDocument]:
    """The choice of an event, and the event as it would be if the request had one answer only."""
    if "choice" not in event:
        return None, event
    own = {name: value for name, value in event.items() if name != "choice"}
    return event["choice"], own | {"type": own["type"].replace("choice.", "response.")}


@dataclass
class StreamedAnswer:
    """The answer received so far: its parts, and its terminal event.

    If the request has several answers, each is in `choices`, and this one has no parts.
    """

    parts: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: list[EventDocument] = field(default_factory=list)
    usage: EventDocument = field(default_factory=dict)
    end: EventDocument | None = None
    choices: dict[int, StreamedAnswer] = field(default_factory=dict)

    def add(self, event: EventDocument) -> None:
        """Update the answer by one event."""
        self.events.append(event)
        choice, event = split_choice(event)
        if choice is not None:
            self.choices.setdefault(choice, StreamedAnswer()).add(event)
            return
        kind = event["type"]
        if kind == "part.start":
            self.parts[event["index"]] = {"type": event["kind"], "text": ""}
        elif kind == "text.delta":
            self.parts[event["index"]]["text"] += event["text"]
        elif kind == "image.done":
            self.parts[event["index"]].update(event, type="image")
        elif kind == "usage":
            self.usage = event
        elif kind in TERMINAL_EVENTS:
            self.end = event

    @property
    def ordered(self) -> list[dict[str, Any]]:
        """The parts in order."""
        return [self.parts[index] for index in sorted(self.parts)]

    @property
    def alternatives(self) -> list[StreamedAnswer]:
        """All answers to the request: the choices, or this one if there are none."""
        return [self.choices[number] for number in sorted(self.choices)] or [self]

    @property
    def images(self) -> list[dict[str, Any]]:
        """The finished images."""
        return [p for p in self.ordered if p["type"] == "image" and "sha256" in p]


def parse_events(lines: Iterator[str]) -> Iterator[tuple[str, EventDocument]]:
    """Parse the lines of server-sent events into (id, data); skips comments and other fields."""
    event_id, data = "", []
    for line in lines:
        if line.startswith("id:"):
            event_id = line[3:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield event_id, json.loads("\n".join(data))
            data = []


class GatewayClient:
    """Client of one gateway. It resumes a broken stream after the last event it received."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(30.0, read=60.0)
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        self._url = url

    def stream(self, document: dict[str, Any], resumes: int = 5) -> Iterator[EventDocument]:
        """Send a request; yields its events up to the terminal one.

        Raises:
            RequestRefused: the gateway refused the request, or the stream broke `resumes` times.
        """
        request_id, last_id = "", ""
        method, url, body = "POST", "/generate", json.dumps(document | {"stream": True})
        while True:
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
            if last_id:
                headers["Last-Event-ID"] = last_id
            try:
                with self._http.stream(method, url, headers=headers, content=body) as response:
                    self._check(response)
                    for event_id, event in parse_events(response.iter_lines()):
                        request_id, last_id = event["request_id"], event_id
                        yield event
                        if event["type"] in TERMINAL_EVENTS:
                            return
            except httpx.TransportError as error:
                if not request_id or resumes <= 0:
                    raise RequestRefused(f"no connection to {self._url}: {error}") from error
            if not request_id or resumes <= 0:
                raise RequestRefused("the stream ended without a terminal event")
            resumes -= 1
            method, url, body = "GET", f"/v1/requests/{request_id}/events", ""

    def image(self, part: dict[str, Any]) -> bytes:
        """The bytes of a finished image."""
        if part.get("b64"):
            return base64.b64decode(part["b64"])
        response = self._http.get(f"/v1/images/{part['sha256']}")
        self._check(response)
        return response.content

    def _check(self, response: httpx.Response) -> None:
        if response.status_code < 400:
            return
        response.read()
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:200]
        raise RequestRefused(f"{response.status_code}: {message}")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
