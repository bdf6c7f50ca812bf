"""The roles as `mmi` runs them, engines and all: killed in the middle of a text and of a picture.

pytest -m faults tests/faults/test_real_engines.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.real_system import ENDS, LEASE_S, Answer, RealSystem, assert_same

PROMPTS = ("Pip the fox went to the lake.", "Once upon a time there was a cat.")
TEXT = {"output_modalities": ["text"], "min_tokens": 80, "max_tokens": 90}
PICTURE = {"draw_now": True, "max_images": 1, "max_tokens": 30}
_OUT = Path(__file__).resolve().parents[2] / "out" / "faults_real_engines.json"


class Killer:
    """Kills a worker once, when the request that is watched has got so many events of a kind."""

    def __init__(self, system: RealSystem, name: str, kind: str, count: int) -> None:
        self._system, self._name, self._kind, self._count = system, name, kind, count
        self.kills = 0
        self.longest_pause_s = 0.0
        self._last = time.monotonic()

    def watch(self, answer: Answer) -> None:
        if self.kills:
            self.longest_pause_s = max(self.longest_pause_s, time.monotonic() - self._last)
        self._last = time.monotonic()
        if not self.kills and answer.count(self._kind) == self._count:
            self.kills += 1
            self._system.kill(self._name)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[RealSystem]:
    system = RealSystem(tmp_path)
    try:
        system.start()
        yield system
    finally:
        system.stop()


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_answers_are_the_same_whoever_is_killed_in_the_middle(system: RealSystem) -> None:
    pauses_s: dict[str, list[float]] = {"text-worker": [], "image-worker": []}
    for prompt in PROMPTS:
        content = [{"type": "text", "text": prompt}]
        for document, name, kind in (
            (TEXT, "text-worker", "text.delta"),
            (PICTURE, "image-worker", "image.progress"),
        ):
            clean = system.ask({"content": content, **document})
            assert clean.events[-1]["type"] in ENDS, clean.events
            killer = Killer(system, name, kind, 5)
            answer = system.ask({"content": content, **document}, killer.watch)
            assert killer.kills == 1
            assert_same(answer, clean)
            pauses_s[name].append(round(killer.longest_pause_s, 1))
            system.wait_for(name)
    report = {
        "requests": 4 * len(PROMPTS),
        "kills": 2 * len(PROMPTS),
        "different_answers": 0,
        "lease_s": LEASE_S,
        "longest_pause_s": pauses_s,
    }
    _OUT.parent.mkdir(exist_ok=True)
    _OUT.write_text(json.dumps(report, indent=2) + "\n")
