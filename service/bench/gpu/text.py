"""The text stage on a card, by the commands that measure it anywhere: each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.bench.gpu.recorder import Recorder

_SHOWN_LINES = 25


# Number type, vLLM's model runner, and whether it compiles; the most used first.
_WAYS = (
    ("bfloat16", "2", ("--compile",)),
    ("float32", "2", ()),
    ("bfloat16", "1", ()),
)


def run_parity(recorder: Recorder) -> None:
    """The sampling kernels; then greedy tokens against the plain model on the same card."""
    tokens = ("tiny", "1", "4") if recorder.rehearsal else ("bench", "1", "32", "256")
    _bench(recorder, "kernels", ["sampling", "--preset", tokens[0], "--tokens", *tokens[1:]])
    if recorder.rehearsal:
        _text(recorder, "parity", "tiny", "official", ["1"], "4", [])
        return
    for dtype, runner, compiled in _WAYS:
        options = ["--dtype", dtype, "--runner", runner, *compiled]
        _text(recorder, "parity", "bench", "official", ["1", "8"], "24", options)


def run_speed(recorder: Recorder) -> None:
    """Decode speed against stock vLLM, and the time to the first token after three images."""
    if recorder.rehearsal:
        _text(recorder, "speed", "tiny", "stock", ["1", "2"], "4", ["--random"])
        return
    options = ["--random", "--compile", "--words", "8"]
    _text(recorder, "speed", "13b", "stock", ["1", "8", "32", "128"], "96", options)


def _text(
    recorder: Recorder,
    what: str,
    preset: str,
    beside: str,
    batches: Sequence[str],
    tokens: str,
    options: Sequence[str],
) -> None:
    """`mmi bench text` of the text engine and another variant."""
    arguments = ["text", "--preset", preset, "--variants", beside, "ours", "--batch", *batches]
    arguments += ["--tokens", tokens, "--cache-dir", str(recorder.cache_dir), *options]
    _bench(recorder, what, arguments)


def _bench(recorder: Recorder, what: str, arguments: Sequence[str]) -> None:
    """Run `mmi bench ...` and note every row of its JSON document; a failure is a result too."""
    document = recorder.cache_dir / f"{what}.json"
    document.parent.mkdir(parents=True, exist_ok=True)
    document.unlink(missing_ok=True)
    command = [sys.executable, "-m", "service", "bench", *arguments, "--json", str(document)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    shown = " ".join(arguments)
    if done.returncode or not document.is_file():
        end = "\n".join(done.stdout.splitlines()[-_SHOWN_LINES:])
        recorder.note("failed", command=shown, status=done.returncode, output=end)
        return
    for row in _rows(document):
        recorder.note(what, command=shown, **row)


def _rows(document: Path) -> list[dict[str, Any]]:
    """The results of a benchmark's document, without its long columns."""
    results = json.loads(document.read_text())["results"]
    return [
        {key: value for key, value in row.items() if not isinstance(value, list | dict)}
        for row in results
    ]
