from __future__ import annotations

import pytest
import torch

from model.device.stream import HostStream, stream_of, upload
from tests.model.device.accelerator import ACCELERATOR, no_host_copies

CPU = torch.device("cpu")


def test_on_a_cpu_nothing_is_copied() -> None:
    x = torch.randn(3)
    assert upload(x, CPU) is x
    stream = stream_of(CPU)
    assert isinstance(stream, HostStream)
    assert stream.download(x) is x
    assert stream.record().done()
    stream.record().wait()


def test_an_upload_casts_and_does_not_wait() -> None:
    with no_host_copies():
        up = upload(torch.randn(3), ACCELERATOR, torch.bfloat16)
        assert (up.device, up.dtype) == (ACCELERATOR, torch.bfloat16)
        again = upload(up, ACCELERATOR, torch.float32)
    assert (again.device, again.dtype) == (ACCELERATOR, torch.float32)


@pytest.mark.gpu
def test_a_gpu_copies_through_pinned_memory() -> None:
    stream = stream_of(torch.device("cuda"))
    x = torch.randn(1000)
    down = stream.download(upload(x, stream.device) * 2)
    assert down.is_pinned()
    event = stream.record()
    event.wait()
    assert event.done()
    assert torch.equal(down, x * 2)
