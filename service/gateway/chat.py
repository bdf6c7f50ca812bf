"""Between OpenAI's documents and ours; pure functions."""

from __future__ import annotations

from typing import Any

from service.gateway.chat_schemas import ChatMessage, ChatRequest, ChatText, ImagesRequest
from service.gateway.problems import Problem
from service.gateway.schemas import (
    GenerateRequest,
    GenerateResponse,
    ImageOptions,
    ImagePart,
    OutputImage,
    TextPart,
)

_FINISH = {"completed": "stop", "incomplete": "length", "cancelled": "stop", "failed": "error"}


def generate_from_chat(chat: ChatRequest) -> GenerateRequest:
    """The messages as one running document, a line break between messages.

    Raises:
        Problem: there is no content at all.
    """
    parts: list[TextPart | ImagePart] = []
    for number, message in enumerate(chat.messages):
        if number and parts and isinstance(parts[-1], TextPart):
            parts[-1] = TextPart(type="text", text=parts[-1].text + "\n")
        parts += _parts_of(message)
    if not parts:
        raise Problem("invalid_value", param="messages", reason="must hold some content")
    if len(parts) > 1024:
        raise Problem("invalid_value", param="messages", reason="hold too many parts")
    stop = [chat.stop] if isinstance(chat.stop, str) else list(chat.stop or [])
    if len(stop) > 4:
        raise Problem("invalid_value", param="stop", reason="must have at most 4 items")
    return GenerateRequest(
        model=chat.model,
        content=parts,
        output_modalities=list(chat.modalities),
        max_tokens=chat.max_completion_tokens or chat.max_tokens or 256,
        temperature=chat.temperature,
        top_p=chat.top_p,
        presence_penalty=chat.presence_penalty,
        frequency_penalty=chat.frequency_penalty,
        stop=stop,
        seed=chat.seed,
        stream=chat.stream,
    )


def _parts_of(message: ChatMessage) -> list[TextPart | ImagePart]:
    if isinstance(message.content, str):
        return [TextPart(type="text", text=message.content)] if message.content else []
    parts: list[TextPart | ImagePart] = []
    for part in message.content:
        if not isinstance(part, ChatText):
            parts.append(ImagePart(type="image", url=part.image_url.url))
        elif part.text:
            parts.append(TextPart(type="text", text=part.text))
    return parts


def generate_from_images(wanted: ImagesRequest, number: int) -> GenerateRequest:
    """The request for the `number`-th picture.

    Raises:
        Problem: the size can't be drawn.
    """
    size: dict[str, int] = {}
    if wanted.size not in (None, "auto"):
        width, height = (int(side) for side in wanted.size.split("x"))
        if any(side % 8 or not 8 <= side <= 2048 for side in (width, height)):
            reason = "must have sides from 8 to 2048, multiples of 8"
            raise Problem("invalid_value", param="size", reason=reason)
        size = {"width": width, "height": height}
    seed = None if wanted.seed is None else (wanted.seed + number) % 2**32
    returns = "url" if wanted.response_format == "url" else "b64"
    options = {"format": wanted.output_format, "seed": seed, "return": returns, **size}
    return GenerateRequest(
        model=wanted.model,
        content=[TextPart(type="text", text=wanted.prompt)],
        output_modalities=["image"],
        max_images=1,
        image=ImageOptions.model_validate(options),
    )


def image_item(answer: GenerateResponse) -> list[dict[str, str]]:
    """The pictures of an answer, as items of `data`."""
    pictures = [part for part in answer.content if isinstance(part, OutputImage)]
    return [{"b64_json": p.b64} if p.b64 else {"url": p.url or ""} for p in pictures]


def _picture(mime: str, b64: str | None, url: str | None) -> dict[str, Any]:
    address = f"data:{mime};base64,{b64}" if b64 else url
    return {"type": "image_url", "image_url": {"url": address}}


def _usage(prompt_tokens: int, output_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
    }


def chat_answer(answer: GenerateResponse) -> dict[str, Any]:
    """A whole answer. Text parts are joined; pictures are in `images`, as data: URLs."""
    text = "".join(part.text for part in answer.content if not isinstance(part, OutputImage))
    pictures = [part for part in answer.content if isinstance(part, OutputImage)]
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if pictures:
        message["images"] = [_picture(p.mime, p.b64, p.url) for p in pictures]
    finish = _FINISH.get(answer.status, "stop")
    usage = answer.usage
    return {
        "id": answer.id,
        "object": "chat.completion",
        "created": int(answer.created_at),
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": _usage(usage.prompt_tokens, usage.output_tokens) if usage else None,
    }


def chat_chunks(event: dict[str, Any], with_usage: bool) -> list[dict[str, Any]]:
    """What an event is in a chat stream: no chunk, or some."""
    kind = event["type"]
    if kind == "response.created":
        return [_chunk({"role": "assistant", "content": ""})]
    if kind == "text.delta":
        return [_chunk({"content": event["text"]})]
    if kind == "image.done":
        return [_chunk({"images": [_picture(event["mime"], event.get("b64"), event.get("url"))]})]
    if kind == "usage" and with_usage:
        usage = _usage(event["prompt_tokens"], event["output_tokens"])
        return [{"choices": [], "usage": usage}]
    finish = _FINISH.get(kind.removeprefix("response."))
    if kind == "response.failed":
        return [{"choices": [], "error": event["error"]}]
    return [_chunk({}, finish)] if finish else []


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
