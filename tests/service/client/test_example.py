"""The request of the demo is one that the gateway takes."""

from PIL import Image

from service.client.example import IMAGE, INTRODUCTION, WISH, example_parts, example_request
from service.gateway.api.schemas import GenerateRequest


def test_the_gateway_takes_the_request() -> None:
    request = GenerateRequest.model_validate(example_request(seed=3, steps=4))
    kinds = [part.type for part in request.content]
    assert kinds == ["text", "image", "text"]
    assert (request.seed, request.image.steps, request.image.seed) == (3, 4, 3)
    with Image.open(IMAGE) as picture:
        assert picture.width == picture.height


def test_another_wish_keeps_the_hero() -> None:
    texts = [part.text for part in example_parts("Draw a boat.") if part.text]
    assert texts == [INTRODUCTION, "Draw a boat."]
    assert [part.text for part in example_parts() if part.text][-1] == WISH
