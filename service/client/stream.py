"""Sending a request to a gateway and reading its answer as it comes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
TERMINAL = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
Event = dict[str, Any]


class RequestRefused(RuntimeError):
    """The gateway did not accept the request, or the stream broke."""


@dataclass(frozen=True)
class Given:
    """One part of the request: text, or the file of an image."""

    text: str | None = None
    path: Path | None = None


def read_arguments(arguments: list[str]) -> list[Given]:
    """Arguments in order: an image file where one of that name exists (or `@name`), else text.

    Raises:
        ValueError: a file named with @ does not exist, or nothing is given.
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
        raise ValueError("nothing to continue: give some text or an image file")
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


def split_choice(event: Event) -> tuple[int | None, Event]:
    """The choice that an event is about, and the event as the only answer to a request has it."""
    if "choice" not in event:
        return None, event
    own = {name: value for name, value in event.items() if name != "choice"}
    return event["choice"], own | {"type": own["type"].replace("choice.", "response.")}


@dataclass
class Answer:
    """The answer so far: its parts in order, and how it ended.

    Of several answers to one request, each is an answer in `choices`; this one then holds no parts.
    """

    parts: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    usage: Event = field(default_factory=dict)
    end: Event | None = None
    choices: dict[int, Answer] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take in one event."""
        self.events.append(event)
        choice, event = split_choice(event)
        if choice is not None:
            self.choices.setdefault(choice, Answer()).add(event)
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
        elif kind in TERMINAL:
            self.end = event

    @property
    def ordered(self) -> list[dict[str, Any]]:
        """The parts in the order of the answer."""
        return [self.parts[index] for index in sorted(self.parts)]

    @property
    def alternatives(self) -> list[Answer]:
        """All answers to the request; the answer itself if it is the only one."""
        return [self.choices[number] for number in sorted(self.choices)] or [self]

    @property
    def images(self) -> list[dict[str, Any]]:
        """The finished images."""
        return [p for p in self.ordered if p["type"] == "image" and "sha256" in p]


def parse_events(lines: Iterator[str]) -> Iterator[tuple[str, Event]]:
    """Server-sent events from their lines: (id, data). Comments and unknown fields are skipped."""
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
    """Talks to one gateway; a broken stream is resumed where it stopped."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(30.0, read=60.0)
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        self._url = url

    def stream(self, document: dict[str, Any], resumes: int = 5) -> Iterator[Event]:
        """Events of a new request, up to the terminal one.

        Raises:
            RequestRefused: the gateway refused, or the stream broke for good.
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
                        if event["type"] in TERMINAL:
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
