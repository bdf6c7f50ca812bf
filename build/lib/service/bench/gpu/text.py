"""The text stage on a card, by the commands that measure it anywhere: each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.bench.gpu.recorder import Recorder
from service.config import child_environment
from service.local.processes import die_with_parent

_SHOWN_LINES = 25
# Number type, vLLM's model runner, and whether it compiles; the most used first.
_WAYS = (
    ("bfloat16", "2", ("--compile",)),
    ("float32", "2", ()),
    ("bfloat16", "1", ()),
)


@dataclass(frozen=True)
class Bench:
    """A run of `mmi bench ...`; `what` names its results."""

    what: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """By which its results are known."""
        return " ".join(self.arguments)


def run_parity(recorder: Recorder) -> None:
    """The sampling kernels; then greedy tokens against the plain model on the same card."""
    preset, tokens = ("tiny", ("1", "4")) if recorder.rehearsal else ("bench", ("1", "32", "256"))
    kernels = Bench("kernels", ["sampling", "--preset", preset, "--tokens", *tokens])
    both = ("official", "ours")
    if recorder.rehearsal:
        _run(recorder, [kernels, _text(recorder, "parity", "tiny", both, ["1"], "4", [])])
        return
    ways = [
        _text(
            recorder,
            "parity",
            "bench",
            both,
            ["1", "8"],
            "24",
            ["--dtype", dtype, "--runner", runner, *compiled],
            _ieee(recorder) if dtype == "float32" else {},
        )
        for dtype, runner, compiled in _WAYS
    ]
    _run(recorder, [kernels, *ways])


def run_speed(recorder: Recorder) -> None:
    """Decode speed against stock vLLM, and the time to the first token after three images.

    A variant after the other, so that what one has measured stays when time runs out.
    """
    preset, batches, tokens = "13b", ["1", "8", "32", "128"], "96"
    options = ["--random", "--compile", "--words", "8"]
    if recorder.rehearsal:
        preset, batches, tokens, options = "tiny", ["1", "2"], "4", ["--random"]
    benches = [
        _text(recorder, "speed", preset, (variant,), batches, tokens, options)
        for variant in ("stock", "ours")
    ]
    _run(recorder, benches)
    _note_shares(recorder)


def _text(
    recorder: Recorder,
    what: str,
    preset: str,
    variants: Sequence[str],
    batches: Sequence[str],
    tokens: str,
    options: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Bench:
    """`mmi bench text`."""
    arguments = ["text", "--preset", preset, "--variants", *variants, "--batch", *batches]
    arguments += ["--tokens", tokens, "--cache-dir", str(recorder.cache_dir), *options]
    return Bench(what, arguments, environment or {})


def _ieee(recorder: Recorder) -> dict[str, str]:
    """Without TF32 in NVIDIA's libraries and Triton, whose cache does not tell the two apart."""
    cache = recorder.cache_dir.resolve() / "triton-ieee"
    triton = {"TRITON_F32_DEFAULT": "ieee", "TRITON_CACHE_DIR": str(cache)}
    return {"NVIDIA_TF32_OVERRIDE": "0", **triton}


def _run(recorder: Recorder, benches: Sequence[Bench]) -> None:
    """Run those that have no results on this machine yet.

    Raises:
        RuntimeError: one has failed, which is noted too; the others have run.
    """
    known = {row.get("command") for row in recorder.rows() if row["what"] != "failed"}
    failed = [b.command for b in benches if b.command not in known and not _succeeds(recorder, b)]
    if failed:
        raise RuntimeError(f"failed: {'; '.join(failed)}")


def _succeeds(recorder: Recorder, bench: Bench) -> bool:
    """Run a benchmark and note every row of its JSON document."""
    document = recorder.cache_dir / f"{bench.what}.json"
    document.parent.mkdir(parents=True, exist_ok=True)
    document.unlink(missing_ok=True)
    status, end = _output(bench, document)
    if status or not document.is_file():
        recorder.note("failed", command=bench.command, status=status, output=end)
        return False
    for row in _rows(document):
        recorder.note(bench.what, command=bench.command, **bench.environment, **row)
    return True


def _output(bench: Bench, document: Path) -> tuple[int, str]:
    """Run it, passing on what it prints; returns its status and the last lines."""
    command = [sys.executable, "-m", "service", "bench", *bench.arguments]
    end: deque[str] = deque(maxlen=_SHOWN_LINES)
    with subprocess.Popen(
        [*command, "--json", str(document)],
        env=child_environment(bench.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:  # At once: a phase may be killed before the end.
            sys.stdout.write(line)
            sys.stdout.flush()
            end.append(line)
    return process.returncode, "".join(end)


def _rows(document: Path) -> list[dict[str, Any]]:
    """The results of a benchmark's document, without its long columns."""
    results = json.loads(document.read_text())["results"]
    return [
        {key: value for key, value in row.items() if not isinstance(value, list | dict)}
        for row in results
    ]


def _note_shares(recorder: Recorder) -> None:
    """Our decode speed as a share of stock vLLM's at each number of requests."""
    speeds = {
        (row["variant"], row["batch"]): row["decode_tokens_per_s"]
        for row in recorder.rows()
        if row["what"] == "speed"
    }
    for (variant, batch), speed in speeds.items():
        if variant == "ours":
            share = round(speed / speeds["stock", batch], 3)
            recorder.note("of stock", batch=batch, decode_share=share)
