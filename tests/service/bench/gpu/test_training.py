from __future__ import annotations

import time
from pathlib import Path

import pytest

from service.bench.gpu import training
from service.bench.gpu.training import Settled, Utilisation

ALWAYS = (0.0, float("inf"))


def test_without_a_tool_nothing_is_said_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SAMPLE_S", 0.01)
    monkeypatch.setenv("PATH", "")
    with Utilisation() as utilisation:
        pass
    assert utilisation.idle_share(*ALWAYS) is None


def test_the_card_is_asked_while_it_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    tool.write_text(f"#!/bin/sh\necho 40\necho >> {asked}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(training, "_SAMPLE_S", 0.01)
    with Utilisation() as utilisation:
        while not asked.exists():
            time.sleep(0.05)
    assert utilisation.idle_share(*ALWAYS) == 0.6


def test_the_share_of_time_in_which_no_kernel_ran() -> None:
    utilisation = Utilisation()
    utilisation._samples = [(1.0, 0.0), (2.0, 100.0), (3.0, 50.0), (4.0, 30.0), (9.0, 0.0)]
    assert utilisation.idle_share(2.0, 4.0) == 0.4
    assert utilisation.idle_share(5.0, 8.0) is None


def test_settled_steps_are_timed() -> None:
    assert Settled(30, 100.0, 115.0).steps_per_s == 2
