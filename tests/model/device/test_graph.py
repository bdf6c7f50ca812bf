from __future__ import annotations

import pytest
import torch

from model.device.graph import graphs_of


def test_a_cpu_records_nothing() -> None:
    assert graphs_of(torch.device("cpu")) is None


@pytest.mark.gpu
def test_a_replay_computes_on_what_its_memory_holds() -> None:
    graphs = graphs_of(torch.device("cuda"))
    assert graphs is not None
    x = torch.ones(4, device="cuda")
    graph, output = graphs.capture(lambda: x * 2)
    for value in (1.0, 5.0):
        x.fill_(value)
        graph.replay()
        assert output.tolist() == [2 * value] * 4


@pytest.mark.gpu
def test_a_call_that_waits_is_refused_and_the_device_goes_on() -> None:
    graphs = graphs_of(torch.device("cuda"))
    assert graphs is not None
    x = torch.ones(4, device="cuda")
    with pytest.raises(RuntimeError):
        graphs.capture(lambda: x * float(x.sum()))
    assert (x + 1).tolist() == [2.0] * 4
