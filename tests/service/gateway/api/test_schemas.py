"""The quality of pictures fills in what a request leaves open."""

import pytest

from model.sampling_params import QUALITIES
from service.gateway.api.schemas import ImageOptions


@pytest.mark.parametrize("name", list(QUALITIES))
def test_a_quality_sets_steps_and_scheduler(name: str) -> None:
    made = ImageOptions.model_validate({"quality": name}).params(7)
    assert (made.num_inference_steps, made.scheduler, made.seed) == (
        QUALITIES[name].steps,  # type: ignore[index]
        QUALITIES[name].scheduler,  # type: ignore[index]
        7,
    )


def test_explicit_parameters_win() -> None:
    given = {"quality": "fast", "steps": 3, "scheduler": "ddim"}
    made = ImageOptions.model_validate(given).params(0)
    assert (made.num_inference_steps, made.scheduler) == (3, "ddim")
