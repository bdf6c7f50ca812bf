"""The stored form of a request."""

from __future__ import annotations

import json

import pytest

from model.sampling_params import SamplingParams
from service.errors import DecodeError
from service.messages import Request, RequestImageParams, TextPart

CONTENT = (TextPart(text="hello"),)


def test_parameters_are_stored_under_the_names_of_the_http_api() -> None:
    request = Request(
        content=CONTENT,
        sampling=SamplingParams(top_k=3, stop=("x",), logit_bias={7: -1.5}, logprobs=0),
        image=RequestImageParams(num_inference_steps=9, num_previews=2, width=64, seed=5),
    )
    stored = json.loads(request.encode())
    assert stored["sampling"] == {
        "min_tokens": 0, "temperature": 0.7, "top_p": 1.0, "top_k": 3, "repetition_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "stop": ["x"],
        "logit_bias": {"7": -1.5}, "logprobs": 0,
    }  # fmt: skip
    assert stored["image"] == {
        "width": 64, "steps": 9, "guidance_rescale": 0.0,
        "scheduler": "ddpm", "seed": 5, "format": "png", "returns": "b64", "previews": 2,
    }  # fmt: skip
    assert Request.decode(request.encode()) == request


@pytest.mark.parametrize("field", ["sampling", "image"])
def test_unknown_parameters_are_refused(field: str) -> None:
    stored = json.loads(Request(content=CONTENT).encode())
    stored[field]["new"] = 1
    with pytest.raises(DecodeError):
        Request.decode(json.dumps(stored))
