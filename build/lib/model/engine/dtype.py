"""The type in which an engine computes."""

from __future__ import annotations

from collections.abc import Callable


def resolve_dtype(dtype: str, device_type: str, fast_bfloat16: Callable[[], bool]) -> str:
    """The type that was asked for; for `auto` the fastest that is exact enough.

    Args:
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device_type: `cpu` or `cuda`.
        fast_bfloat16: whether the device multiplies bfloat16 faster than the alternative.
    """
    if dtype != "auto":
        return dtype
    if fast_bfloat16():
        return "bfloat16"
    return "float16" if device_type == "cuda" else "float32"
