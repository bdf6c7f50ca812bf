"""What clients saw, held against what they should have seen."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.client import Story


def _line(story: Story) -> str:
    """A wrong story: its end, its numbers, and each part that is not as expected."""
    parts = itertools.zip_longest(story.parts(), story.expected())
    differences = [f"{told!r}, not {right!r}" for told, right in parts if told != right]
    head = f"{story.request_id} {story.prompt}: {story.terminal} {story.numbers()}"
    return "\n    ".join([head, *differences])


@dataclass
class Report:
    """The table of a run."""

    requests: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    num_faults: int = 0
    unfinished: int = 0
    terminal: dict[str, int] = field(default_factory=dict)
    lost_events: int = 0
    duplicated_events: int = 0
    reordered_events: int = 0
    extra_terminals: int = 0
    wrong_answers: int = 0
    resumes: int = 0
    restarts: int = 0
    recoveries: int = 0
    recovery_p50_s: float = 0.0
    recovery_p99_s: float = 0.0
    recovery_max_s: float = 0.0
    lease_s: float = 0.0
    seconds: float = 0.0
    role_restarts: int = 0
    load_average: list[float] = field(default_factory=list)

    def judge(self, stories: list[Story]) -> list[str]:
        """Count what went wrong; returns a line about each story that is not as it must be."""
        wrong: list[str] = []
        terminals: Counter[str] = Counter()
        for story in stories:
            self.resumes += story.resumes
            self.restarts += story.restarts
            if not story.done:
                self.unfinished += 1
                wrong.append(f"{story.request_id} {story.prompt}: no end")
                continue
            terminals[story.terminal] += 1
            numbers = story.numbers()
            self.lost_events += len(set(range(max(numbers) + 1)) - set(numbers))
            self.duplicated_events += len(numbers) - len(set(numbers))
            self.reordered_events += sum(
                later < earlier for earlier, later in zip(numbers, numbers[1:], strict=False)
            )
            ends = sum(kind.startswith("response.co") for _, kind, _ in story.events)
            self.extra_terminals += max(0, ends - 1)
            if "poison" in story.prompt:
                good = story.terminal == "response.failed"
            else:
                good = story.terminal == "response.completed" and story.parts() == story.expected()
            if not good or numbers != list(range(len(numbers))):
                self.wrong_answers += 1
                wrong.append(_line(story))
        self.requests, self.terminal = len(stories), dict(terminals)
        return wrong

    def recover(self, faults: list[tuple[float, set[str]]], stories: list[Story]) -> None:
        """From each fault to the next event of each request that it hit.

        Poison never comes back, and is left out. Where a second fault hits the request before it
        is back, the clock starts again.
        """
        by_id = {story.request_id: story for story in stories if "poison" not in story.prompt}
        times: list[float] = []
        for when, hit in faults:
            for request_id in hit & set(by_id):
                events = by_id[request_id].events
                back = next((at for at, _, _ in events if at > when), when)
                again = any(when < other < back and request_id in ids for other, ids in faults)
                if not again:
                    times.append(back - when)
        times.sort()
        self.recoveries = len(times)
        if times:
            self.recovery_p50_s = round(times[len(times) // 2], 3)
            self.recovery_p99_s = round(times[min(len(times) - 1, int(len(times) * 0.99))], 3)
            self.recovery_max_s = round(times[-1], 3)

    def write(self, path: Path) -> str:
        """Write JSON; returns a table."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
        return "\n".join(f"{name:20} {value}" for name, value in asdict(self).items())
