from __future__ import annotations

import pytest

from service.bench.gpu import training
from service.bench.gpu.training import Utilisation


def test_without_a_tool_nothing_is_said_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SAMPLE_S", 0.01)
    monkeypatch.setenv("PATH", "")
    with Utilisation() as utilisation:
        pass
    assert utilisation.idle_share is None


def test_the_share_of_time_in_which_no_kernel_ran() -> None:
    utilisation = Utilisation()
    utilisation._samples = [100.0, 50.0, 30.0]
    assert utilisation.idle_share == 0.4
