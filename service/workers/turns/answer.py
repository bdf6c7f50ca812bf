"""The answer to a request, as its turns build it."""

from __future__ import annotations

from service.messages import (
    Event,
    ImagePart,
    ImageResult,
    Reason,
    RequestStatus,
    ResponseCompleted,
    ResponseIncomplete,
    State,
    TextResult,
    Usage,
    UsageEvent,
)
from service.telemetry.metrics import TOKENS


class Answer:
    """Finished parts, limits and usage; collects the fields that the turn's commit writes."""

    def __init__(self, status: RequestStatus) -> None:
        self._request = status.request
        self.results = list(status.results)
        self.usage = status.usage
        self.state: State | None = None
        self._new: dict[str, str] = {}

    @property
    def next_index(self) -> int:
        """Position of the next part in the answer's content."""
        return len(self.results)

    @property
    def tokens_left(self) -> int:
        """Tokens left until the limit."""
        return self._request.limits.max_tokens - self.usage.output_tokens

    @property
    def images_left(self) -> int:
        """Images left until the limit."""
        return self._request.limits.max_images - self.usage.images

    def previous_image(self, anchored: bool) -> str | None:
        """Hash of the image that the next one reads: the last before it.

        If `anchored`, the last of the prompt or, without any, the answer's first.
        """
        given = [part.sha256 for part in self._request.content if isinstance(part, ImagePart)]
        own = [result.sha256 for result in self.results if isinstance(result, ImageResult)]
        if anchored and (given or own):
            return given[-1] if given else own[0]
        return next(reversed([*given, *own]), None)

    def add(self, result: TextResult | ImageResult) -> None:
        self._new[f"part:{self.next_index}"] = result.encode()
        self.results.append(result)

    def bill_prompt(self, num_tokens: int, num_cached: int) -> None:
        """Bill the prompt; it is billed once, however many turns read it."""
        TOKENS.labels("prompt").inc(num_tokens)
        TOKENS.labels("cached").inc(num_cached)
        self._bill_more(prompt_tokens=num_tokens, cached_tokens=num_cached)

    def bill_text(self, num_tokens: int) -> None:
        TOKENS.labels("output").inc(num_tokens)
        self._bill_more(output_tokens=num_tokens)

    def bill_image(self, num_steps: int) -> None:
        self._bill_more(images=1, image_steps=num_steps)

    def _bill_more(self, **amounts: int) -> None:
        known = self.usage.model_dump()
        self.usage = Usage(**known | {name: known[name] + n for name, n in amounts.items()})

    def complete(self) -> list[tuple[Event, str]]:
        """End the request because the model ended its answer; returns the last events."""
        self.state = "completed"
        return [(self._bill(), ""), (ResponseCompleted(), "")]

    def incomplete(self, reason: Reason) -> list[tuple[Event, str]]:
        """End the request because of a limit; returns the last events."""
        self.state = "incomplete"
        self._new["reason"] = reason
        return [(self._bill(), ""), (ResponseIncomplete(reason=reason), "")]

    def _bill(self) -> UsageEvent:
        return UsageEvent(**self.usage.model_dump())

    def fields(self) -> dict[str, str]:
        """The fields that the commit sets in the record."""
        return self._new | {"usage": self.usage.encode()}
