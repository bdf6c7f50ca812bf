"""Fixtures of the model's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch._dynamo

from model.compiler import DISABLING


@pytest.fixture
def tracing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile traces functions, and finds none that another test compiled.

    Without a C++ compiler an engine in the same process has switched tracing off, which needs none.
    """
    for variable in DISABLING:
        monkeypatch.delenv(variable, raising=False)
    torch.compiler.reset()
    with torch._dynamo.config.patch(disable=False):
        yield
    torch.compiler.reset()
