from __future__ import annotations

from model.bench.image.step import StepFlops
from model.config.presets import preset


def test_our_step_multiplies_less_than_the_published_one() -> None:
    flops = StepFlops.count(preset("tiny"))
    assert 0.5 < flops.our_step / flops.published_step < 0.9
    assert flops.published_image(2) == 2 * flops.published_step + flops.decode
    assert flops.our_image(2) == flops.our_prepare + 2 * flops.our_step + flops.decode
    assert flops.our_image(30) < flops.published_image(30)
