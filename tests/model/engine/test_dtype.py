from __future__ import annotations

import pytest

from model.engine.dtype import resolve_dtype


@pytest.mark.parametrize(
    ("device", "bfloat16", "chosen"),
    [
        ("cpu", False, "float32"),
        ("cpu", True, "bfloat16"),
        ("cuda", True, "bfloat16"),
        ("cuda", False, "float16"),
    ],
)
def test_auto_takes_what_the_device_is_fast_at(device: str, bfloat16: bool, chosen: str) -> None:
    assert resolve_dtype("auto", device, lambda: bfloat16) == chosen


def test_a_type_that_was_asked_for_is_taken_without_asking_the_device() -> None:
    assert resolve_dtype("float32", "cuda", lambda: pytest.fail("asked")) == "float32"
