"""Between OpenAI's documents and ours."""

from __future__ import annotations

import pytest

from service.errors import RequestError
from service.gateway.api.openai_schemas import ChatRequest, ImagesRequest
from service.gateway.api.translation import chat_chunks, generate_from_chat, generate_from_images


def test_openai_names() -> None:
    wanted = ImagesRequest.model_validate({"prompt": "A cat.", "quality": "low"})
    assert generate_from_images(wanted).image.quality == "fast"


def test_messages_become_one_document() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "See: "},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
    ]
    made = generate_from_chat(ChatRequest.model_validate({"messages": messages}))

    assert [part.type for part in made.content] == ["text", "text", "image"]
    assert [part.text for part in made.content[:2]] == ["Be brief.\n", "See: "]
    assert made.content[2].url == "data:image/png;base64,AAAA"


def test_a_line_break_never_makes_a_text_too_long_for_its_schema() -> None:
    messages = [{"role": "user", "content": "x" * 100_000}, {"role": "user", "content": "y"}]
    made = generate_from_chat(ChatRequest.model_validate({"messages": messages}))

    assert len(made.content[0].text) == 100_001


def test_messages_without_content_are_refused() -> None:
    with pytest.raises(RequestError, match="must hold some content"):
        generate_from_chat(
            ChatRequest.model_validate({"messages": [{"role": "user", "content": ""}]})
        )


def test_events_that_are_no_chunk() -> None:
    assert chat_chunks({"type": "image.progress"}, 1, True) == []
    assert chat_chunks({"type": "usage", "prompt_tokens": 1, "output_tokens": 2}, 1, False) == []
    [chunk] = chat_chunks({"type": "usage", "prompt_tokens": 1, "output_tokens": 2}, 1, True)
    assert chunk["usage"]["total_tokens"] == 3
