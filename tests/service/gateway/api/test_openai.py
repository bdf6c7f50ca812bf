"""OpenAI-compatible endpoints, by shape and (where it is installed) with OpenAI's own client."""

from __future__ import annotations

import base64
import json
from typing import Any

import openai
import pytest

from model.segments import ImageSegment, RoleSegment, TextSegment
from tests.service.gateway.conftest import Client

MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "A cat."}]},
]


@pytest.fixture
def api(client: Client) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{client.http.base_url}/v1", api_key="none", max_retries=0)


async def test_chat(client: Client, api: openai.AsyncOpenAI, picture: bytes) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    messages = [*MESSAGES, {"role": "user", "content": [image]}]

    answer = await api.chat.completions.create(model="mm-interleaved", messages=messages)

    assert answer.choices[0].message.content == "once upon "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage and answer.usage.completion_tokens > 0
    context = client.workers.text.contexts[0]
    assert context[:5] == (
        RoleSegment("system"),
        TextSegment("Be brief."),
        RoleSegment("user"),
        TextSegment("A cat."),
        RoleSegment("user"),
    )
    assert isinstance(context[5], ImageSegment)
    assert context[6:] == (RoleSegment("assistant"),)
    await api.close()


async def test_chat_streams_text_and_pictures(client: Client) -> None:
    document = {
        "messages": MESSAGES,
        "modalities": ["text", "image"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    lines = []
    async with client.http.stream("POST", "/v1/chat/completions", json=document) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                lines.append(line[6:])

    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    assert "".join(d.get("content", "") for d in deltas) == "once upon the end"
    pictures = [p for d in deltas for p in d.get("images", ())]
    assert pictures[0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert any(c.get("usage") for c in chunks)


async def test_streaming_with_the_official_client(client: Client, api: openai.AsyncOpenAI) -> None:
    stream = await api.chat.completions.create(
        model="mm-interleaved", messages=MESSAGES, stream=True
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert text == "once upon "
    await api.close()


async def test_several_answers(client: Client, api: openai.AsyncOpenAI) -> None:
    document = {"model": "mm-interleaved", "messages": MESSAGES, "n": 2}
    answer = await api.chat.completions.create(**document)
    texts, ends = {0: "", 1: ""}, []
    async for chunk in await api.chat.completions.create(**document, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason == "stop" else []

    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [choice.message.content for choice in answer.choices] == ["once upon "] * 2
    assert texts == {0: "once upon ", 1: "once upon "} and sorted(ends) == [0, 1]
    await api.close()


async def test_log_probabilities(client: Client, api: openai.AsyncOpenAI) -> None:
    document = {"model": "mm-interleaved", "messages": MESSAGES, "logprobs": True}
    answer = await api.chat.completions.create(**document, top_logprobs=2)
    streamed = [
        score
        async for chunk in await api.chat.completions.create(**document, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for score in choice.logprobs.content or ()
    ]

    scores = answer.choices[0].logprobs
    assert scores and scores.content
    assert [score.token for score in scores.content] == ["once ", "upon "]
    assert scores.content[0].logprob == -0.5 and bytes(scores.content[0].bytes or ()) == b"once "
    assert streamed == scores.content
    await api.close()


async def test_images(client: Client, api: openai.AsyncOpenAI) -> None:
    answer = await api.images.generate(
        model="mm-interleaved", prompt="a cat", n=2, response_format="b64_json", size="64x64"
    )

    assert answer.data and len(answer.data) == 2
    assert base64.b64decode(answer.data[0].b64_json or "").startswith(b"\x89PNG")
    first, second = client.workers.images.samplings
    assert (first.width, first.height) == (64, 64)
    assert first.seed != second.seed
    await api.close()


async def test_models(client: Client, api: openai.AsyncOpenAI) -> None:
    models = await api.models.list()

    assert [model.id for model in models.data] == ["mm-interleaved"]
    await api.close()


@pytest.mark.parametrize(
    ("path", "document", "param"),
    [
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": MESSAGES, "n": 9}, "n"),
        ("/v1/chat/completions", {"messages": MESSAGES, "top_logprobs": 2}, "top_logprobs"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}]}, "messages"),
        ("/v1/images/generations", {"prompt": "x", "size": "100x100"}, "size"),
        ("/v1/images/generations", {"prompt": "x", "n": 9}, "n"),
    ],
)
async def test_wrong_documents(client: Client, path: str, document: Any, param: str) -> None:
    response = await client.post(document, path)

    assert response.status_code == 422
    assert response.json()["error"]["param"] == param
