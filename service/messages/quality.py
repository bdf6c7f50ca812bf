"""Named ways to draw: how many denoising steps, by which scheduler.

What each costs and how far its images are from many steps is measured by `mmi bench quality`
(docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.sampling_params import SchedulerName

QualityName = Literal["reference", "high", "balanced", "fast"]


@dataclass(frozen=True)
class Quality:
    """One preset."""

    steps: int
    scheduler: SchedulerName


QUALITIES: dict[QualityName, Quality] = {
    "reference": Quality(30, "ddpm"),  # as published
    "high": Quality(30, "dpmsolver++"),
    "balanced": Quality(15, "dpmsolver++"),
    "fast": Quality(8, "dpmsolver++"),
}
