from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from service.gateway.api.openai_schemas import ChatRequest, ImagesRequest

USER: dict[str, Any] = {"role": "user", "content": "Hello."}


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [USER]} | fields)


def places(error: ValidationError) -> set[tuple[int | str, ...]]:
    return {one["loc"] for one in error.errors()}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [USER] * 257}, "messages"),
        ({"modalities": []}, "modalities"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"n": 17}, "n"),
        ({"top_logprobs": 6, "logprobs": True}, "top_logprobs"),
        ({"tools": []}, "tools"),  # A field without a meaning here is not passed over.
    ],
)
def test_values_out_of_range_are_refused_where_they_stand(
    fields: dict[str, Any], place: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        chat(**fields)
    assert {location[0] for location in places(refused.value)} == {place}


def test_top_logprobs_need_logprobs() -> None:
    with pytest.raises(ValidationError, match="top_logprobs"):
        chat(top_logprobs=0)
    assert chat(top_logprobs=0, logprobs=True).top_logprobs == 0


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
        {"role": "user", "content": [{"type": "text", "text": 3}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]},
        {"role": "user", "content": "x", "tool_calls": []},
    ],
)
def test_messages_of_another_kind_are_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        chat(messages=[USER, message])
    assert {location[:2] for location in places(refused.value)} == {("messages", 1)}


@pytest.mark.parametrize(
    ("size", "fits"),
    [(None, True), ("auto", True), ("64x128", True), ("64", False), ("64x", False),
     ("64X64", False), ("64x64\n", False), ("-1x64", False), ("10000x64", False)],
)  # fmt: skip
def test_sizes_of_images(size: str | None, fits: bool) -> None:
    document = {"prompt": "a cat", "size": size}
    if fits:
        assert ImagesRequest.model_validate(document).size == size
    else:
        with pytest.raises(ValidationError):
            ImagesRequest.model_validate(document)


@pytest.mark.parametrize("prompt", ["", "x" * 32_001])
def test_a_prompt_has_a_length(prompt: str) -> None:
    with pytest.raises(ValidationError):
        ImagesRequest.model_validate({"prompt": prompt})
