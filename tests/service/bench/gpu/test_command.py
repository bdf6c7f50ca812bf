"""The report goes on where it stopped, and keeps what ran before a phase was killed."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.bench.gpu.recorder import Recorder, read
from model.checkpoint.shipped import SHIPPED
from service.bench.gpu import command
from service.bench.gpu.command import PHASES, GpuPhase, add_arguments, done, run

HERE = "tests.service.bench.gpu.test_command"
OWN = [sys.executable, "-c", f"import {HERE} as t; t.main()"]


def quick(recorder: Recorder) -> None:
    recorder.note("number", value=1, rehearsing=recorder.rehearsal)


def failing(recorder: Recorder) -> None:
    recorder.note("number", value=2)
    raise RuntimeError("out of memory")


def endless(recorder: Recorder) -> None:
    """Starts a process with a session of its own, as the service does."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    recorder.note("number", value=child.pid, phase_pid=os.getpid())
    while True:
        pass


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three phases, known to the processes that the report starts as well."""
    own = tuple(
        GpuPhase(name, f"{HERE}:{name}", limit_s)
        for name, limit_s in (("quick", 60), ("failing", 60), ("endless", 12))
    )
    monkeypatch.setattr(command, "PHASES", own)
    monkeypatch.setattr(command, "_COMMAND", OWN)


def main() -> None:
    """What a started process runs."""
    command._COMMAND = OWN
    command.PHASES = tuple(
        GpuPhase(name, f"{HERE}:{name}", 60) for name in ("quick", "failing", "endless")
    )
    sys.exit(run(arguments(*sys.argv[1:])))


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.usefixtures("phases")
def test_every_result_is_kept_and_done_phases_are_not_repeated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--rehearse", "--out", str(tmp_path), "--only", "quick", "failing")
    assert run(arguments(*words)) == 1
    rows = list(read(tmp_path / "results.jsonl"))
    assert [(row["phase"], row["what"]) for row in rows] == [
        ("quick", "number"), ("quick", "done"), ("failing", "number"), ("failing", "failed"),
    ]  # fmt: skip
    assert rows[0]["rehearsing"] is True
    assert "out of memory" in rows[-1]["output"]
    assert "out of memory" in capfd.readouterr().out
    assert done(tmp_path / "results.jsonl", rows[0]["device"]) == {"quick"}
    assert done(tmp_path / "results.jsonl", "another card") == set()
    assert run(arguments(*words)) == 1
    again = [row["phase"] for row in read(tmp_path / "results.jsonl")][len(rows) :]
    assert again == ["failing", "failing"]


@pytest.mark.usefixtures("phases")
def test_a_phase_is_killed_at_its_limit(tmp_path: Path) -> None:
    assert run(arguments("--rehearse", "--out", str(tmp_path), "--only", "endless")) == 1
    rows = list(read(tmp_path / "results.jsonl"))
    assert rows[-1]["status"] == "out of time"
    assert not _runs(rows[0]["value"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_phase_ends_with_the_report(tmp_path: Path, number: signal.Signals) -> None:
    """Whatever ends the report: what lived on would hold the card."""
    words = ("--rehearse", "--limit-s", "0", "--out", str(tmp_path), "--only", "endless")
    with subprocess.Popen([*OWN, *words], stdout=subprocess.PIPE, text=True) as report:
        while not (rows := list(read(tmp_path / "results.jsonl"))):
            assert report.poll() is None
            time.sleep(0.05)
        report.send_signal(number)
        output, _ = report.communicate()
    if number == signal.SIGKILL:  # The kernel tells the phase, not all that it has started.
        os.kill(rows[0]["value"], signal.SIGKILL)
    else:
        assert (report.returncode, "interrupted" in output) == (1, True)
        assert not _runs(rows[0]["value"])
    while _runs(rows[0]["phase_pid"]):
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def test_without_a_card_only_a_rehearsal_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_has_card", lambda: False)
    assert run(arguments("--out", str(tmp_path))) == 2
    assert "--rehearse" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_is_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ("--rehearse", "--limit-s", "1", "--out", str(tmp_path))  # Too little for any phase.
    for given, expected in (("", SHIPPED), (str(tmp_path), tmp_path)):
        monkeypatch.setenv("MMI_CHECKPOINT", given)
        args = arguments(*words)
        assert run(args) == 1
        assert args.checkpoint == expected


def test_the_whole_fits_into_ten_minutes() -> None:
    assert sum(phase.limit_s for phase in PHASES) <= 600
