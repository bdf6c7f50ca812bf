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


def run_parity(recorder: Recorder) -> None:
    """The sampling kernels; then greedy tokens against the plain model, in both number types."""
    sizes = ["--preset", "bench", "--tokens", "1", "32", "256"]
    small = ["--preset", "tiny", "--tokens", "1", "4"]
    _bench(recorder, "kernels", ["sampling", *(small if recorder.rehearsal else sizes)])
    batches, tokens = (("1",), "4") if recorder.rehearsal else (("1", "8"), "24")
    for dtype in ("float32",) if recorder.rehearsal else ("float32", "bfloat16"):
        options = ["--dtype", dtype, "--tokens", tokens, "--batch", *batches]
        for extra in ([],) if recorder.rehearsal else ([], ["--compile"]):
            variants = ["--variants", "official", "ours"]
            _bench(
                recorder,
                "parity",
                ["text", *_model(recorder, "bench"), *options, *variants, *extra],
            )


def run_speed(recorder: Recorder) -> None:
    """Decode speed against stock vLLM, and the time to the first token after three images."""
    batches, tokens = (("1", "2"), "4") if recorder.rehearsal else (("1", "8", "32", "128"), "96")
    dtype = "float32" if recorder.rehearsal else "bfloat16"
    options = ["--dtype", dtype, "--tokens", tokens, "--batch", *batches]
    extra = [] if recorder.rehearsal else ["--compile"]
    variants = ["--variants", "ours", "stock"]
    _bench(recorder, "speed", ["text", *_model(recorder, "13b"), *options, *variants, *extra])


def _model(recorder: Recorder, preset: str) -> list[str]:
    chosen = "tiny" if recorder.rehearsal else preset
    return ["--preset", chosen, "--cache-dir", str(recorder.cache_dir)]


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
