"""What does not fit the model is refused before anything is stored or runs."""

from __future__ import annotations

import base64

import pytest

from service.broker.model_card import publish
from service.messages import ModelCard
from tests.service.gateway.conftest import Client

CARD = ModelCard(
    max_prompt_tokens=100,
    max_images=2,
    tokens_per_image=17,
    words_per_token=1,
    characters_per_token=40,
)


@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_come_as_a_status(client: Client, picture: bytes, stream: bool) -> None:
    await publish(client.gateway.broker, CARD)
    image = {"type": "image", "b64": base64.b64encode(picture).decode()}
    words = [{"type": "text", "text": "word " * 100}]
    cases = {
        "too many images": ([image] * 3, 422, "too_many_images"),
        "too many words": (words, 400, "context_length_exceeded"),
        "too long a word": (
            [{"type": "text", "text": "x" * 4000}], 400, "context_length_exceeded"
        ),
        "images leave no room": (
            [image, {"type": "text", "text": "word " * 66}, image], 400, "context_length_exceeded"
        ),
    }  # fmt: skip
    for name, (content, status, code) in cases.items():
        response = await client.post({"content": content, "stream": stream})
        assert response.status_code == status, name
        error = response.json()["error"]
        assert (error["code"], error["param"]) == (code, "content"), name
    chat = {"messages": [{"role": "user", "content": "word " * 100}]}
    refused = await client.post(chat, "/v1/chat/completions")
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert not client.workers.text.contexts

    fits = [image, {"type": "text", "text": "word " * 65}, image]
    assert (await client.post({"content": fits})).status_code == 200


async def test_without_a_card_the_worker_decides(client: Client) -> None:
    response = await client.post({"content": [{"type": "text", "text": "word " * 1000}]})

    assert response.status_code == 200
