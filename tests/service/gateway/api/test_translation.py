"""Between OpenAI's documents and ours."""

from __future__ import annotations

import pytest

from service.errors import RequestError
from service.gateway.api.openai_schemas import ChatRequest, ImagesRequest
from service.gateway.api.translation import chat_chunks, generate_from_chat, generate_from_images


def test_openai_names() -> None:
    wanted = ImagesRequest.model_validate({"prompt": "A cat.", "quality": "low"})
    assert generate_from_images(wanted).image.quality == "fast"


def test_messages_keep_their_roles() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "See: "},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
    ]
    made = generate_from_chat(ChatRequest.model_validate({"messages": messages}))

    assert [part.type for part in made.content] == ["role", "text", "role", "text", "image"]
    assert [made.content[at].role for at in (0, 2)] == ["system", "user"]
    assert [made.content[at].text for at in (1, 3)] == ["Be brief.", "See: "]
    assert made.content[4].url == "data:image/png;base64,AAAA"


def test_one_message_of_the_user_is_plain_content() -> None:
    made = generate_from_chat(
        ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hello."}]})
    )
    assert [part.model_dump() for part in made.content] == [{"type": "text", "text": "Hello."}]


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
