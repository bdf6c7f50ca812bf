"""The quality of pictures fills in what a request leaves open."""

import pytest

from model.sampling_params import QUALITIES
from service.gateway.api.chat import generate_from_images
from service.gateway.api.chat_schemas import ImagesRequest
from service.gateway.api.schemas import ImageOptions
from service.gateway.intake.admission import image_params


@pytest.mark.parametrize("name", list(QUALITIES))
def test_a_quality_sets_steps_and_scheduler(name: str) -> None:
    made = image_params(ImageOptions.model_validate({"quality": name}), 7)
    assert (made.num_inference_steps, made.scheduler, made.seed) == (
        QUALITIES[name].steps,  # type: ignore[index]
        QUALITIES[name].scheduler,  # type: ignore[index]
        7,
    )


def test_explicit_parameters_win() -> None:
    given = {"quality": "fast", "steps": 3, "scheduler": "ddim"}
    made = image_params(ImageOptions.model_validate(given), 0)
    assert (made.num_inference_steps, made.scheduler) == (3, "ddim")


def test_openai_names() -> None:
    wanted = ImagesRequest.model_validate({"prompt": "A cat.", "quality": "low"})
    assert generate_from_images(wanted).image.quality == "fast"
