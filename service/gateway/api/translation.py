"""OpenAI's documents translated to ours and back; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.sampling_params import QualityName
from service.gateway.api.openai_schemas import ChatMessage, ChatRequest, ChatText, ImagesRequest
from service.gateway.api.schemas import (
    MAX_PARTS,
    MAX_STOPS,
    GenerateRequest,
    GenerateResponse,
    ImageInput,
    ImageOptions,
    Outcome,
    OutputImage,
    OutputText,
    RoleInput,
    TextInput,
)
from service.gateway.problems import Problem
from service.messages import AnswerLimits

_FINISH = {"completed": "stop", "incomplete": "length", "cancelled": "stop", "failed": "error"}


def generate_from_chat(chat: ChatRequest) -> GenerateRequest:
    """The messages as content with roles; the role of a first user message goes without saying.

    Raises:
        Problem: there is no content, or too much.
    """
    parts: list[TextInput | ImageInput | RoleInput] = []
    for number, message in enumerate(chat.messages):
        role = "system" if message.role == "developer" else message.role
        if number or role != "user":
            parts.append(RoleInput(type="role", role=role))
        parts += _parts_of(message)
    if all(isinstance(part, RoleInput) for part in parts):
        raise Problem("invalid_value", param="messages", reason="must hold some content")
    if len(parts) > MAX_PARTS:
        raise Problem(
            "invalid_value", param="messages", reason=f"must have at most {MAX_PARTS} parts"
        )
    stop = [chat.stop] if isinstance(chat.stop, str) else list(chat.stop or [])
    if len(stop) > MAX_STOPS:
        raise Problem("invalid_value", param="stop", reason=f"must have at most {MAX_STOPS} items")
    return GenerateRequest(
        model=chat.model,
        content=parts,
        output_modalities=list(chat.modalities),
        max_tokens=chat.max_completion_tokens or chat.max_tokens or AnswerLimits().max_tokens,
        temperature=chat.temperature,
        top_p=chat.top_p,
        presence_penalty=chat.presence_penalty,
        frequency_penalty=chat.frequency_penalty,
        stop=stop,
        seed=chat.seed,
        logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        n=chat.n,
        stream=chat.stream,
    )


def _parts_of(message: ChatMessage) -> list[TextInput | ImageInput]:
    if isinstance(message.content, str):
        return [TextInput(type="text", text=message.content)] if message.content else []
    parts: list[TextInput | ImageInput] = []
    for part in message.content:
        if not isinstance(part, ChatText):
            parts.append(ImageInput(type="image", url=part.image_url.url))
        elif part.text:
            parts.append(TextInput(type="text", text=part.text))
    return parts


# Both generations of OpenAI's names, and ours.
_QUALITIES: dict[str, QualityName] = {
    "auto": "balanced",
    "low": "fast",
    "medium": "balanced",
    "standard": "balanced",
    "high": "high",
    "hd": "high",
}


def generate_from_images(wanted: ImagesRequest) -> GenerateRequest:
    """A request for independent images.

    Raises:
        Problem: the model cannot generate this size.
    """
    size: dict[str, int] = {}
    if wanted.size not in (None, "auto"):
        width, height = (int(side) for side in wanted.size.split("x"))
        if any(side % 8 or not 8 <= side <= 2048 for side in (width, height)):
            reason = "must have sides from 8 to 2048, multiples of 8"
            raise Problem("invalid_value", param="size", reason=reason)
        size = {"width": width, "height": height}
    returns = "url" if wanted.response_format == "url" else "b64"
    options = {
        "quality": _QUALITIES[wanted.quality],
        "format": wanted.output_format,
        "seed": wanted.seed,
        "return": returns,
        **size,
    }
    return GenerateRequest(
        model=wanted.model,
        content=[TextInput(type="text", text=wanted.prompt)],
        output_modalities=["image"],
        max_images=1,
        n=wanted.n,
        image=ImageOptions.model_validate(options),
    )


def image_items(answer: GenerateResponse) -> list[dict[str, str]]:
    """The images of all answers, as items of `data`."""
    outcomes: Sequence[Outcome] = answer.choices or [answer]
    images = [p for one in outcomes for p in one.content if isinstance(p, OutputImage)]
    return [{"b64_json": p.b64} if p.b64 else {"url": p.url or ""} for p in images]


def _image_part(mime: str, b64: str | None, url: str | None) -> dict[str, Any]:
    address = f"data:{mime};base64,{b64}" if b64 else url
    return {"type": "image_url", "image_url": {"url": address}}


def _usage(prompt_tokens: int, output_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
    }


def _scores(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores of tokens in OpenAI's form."""

    def item(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    return {
        "content": [
            item(score["token"], score["logprob"])
            | {"top_logprobs": [item(*one) for one in score["top"]]}
            for score in scores
        ]
    }


def _choice(index: int, outcome: Outcome) -> dict[str, Any]:
    """One answer. Text parts are joined; images are in `images`, as data: URLs."""
    texts = [part for part in outcome.content if isinstance(part, OutputText)]
    images = [part for part in outcome.content if isinstance(part, OutputImage)]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(part.text for part in texts),
    }
    if images:
        message["images"] = [_image_part(p.mime, p.b64, p.url) for p in images]
    choice = {
        "index": index,
        "message": message,
        "finish_reason": _FINISH.get(outcome.status, "stop"),
    }
    if any(part.logprobs is not None for part in texts):
        scores = [vars(score) for part in texts for score in part.logprobs or ()]
        choice["logprobs"] = _scores(scores)
    return choice


def chat_answer(answer: GenerateResponse) -> dict[str, Any]:
    """A whole answer, with all of its choices."""
    usage = answer.usage
    return {
        "id": answer.id,
        "object": "chat.completion",
        "created": int(answer.created_at),
        "model": answer.model,
        "choices": [_choice(k, outcome) for k, outcome in enumerate(answer.choices or [answer])],
        "usage": _usage(usage.prompt_tokens, usage.output_tokens) if usage else None,
    }


def chat_chunks(event: dict[str, Any], num_choices: int, with_usage: bool) -> list[dict[str, Any]]:
    """The chunks of a chat stream that an event becomes; often none."""
    kind, index = event["type"], event.get("choice", 0)
    if kind == "response.created":
        return [_chunk(k, {"role": "assistant", "content": ""}) for k in range(num_choices)]
    if kind == "text.delta":
        return [_chunk(index, {"content": event["text"]}, scores=event.get("logprobs"))]
    if kind == "image.done":
        image_part = _image_part(event["mime"], event.get("b64"), event.get("url"))
        return [_chunk(index, {"images": [image_part]})]
    if kind == "usage" and with_usage and "choice" not in event:
        usage = _usage(event["prompt_tokens"], event["output_tokens"])
        return [{"choices": [], "usage": usage}]
    if kind == "response.failed":
        return [{"choices": [], "error": event["error"]}]
    ends, _, state = kind.partition(".")
    if ends == ("choice" if num_choices > 1 else "response") and state in _FINISH:
        return [_chunk(index, {}, _FINISH[state])]
    return []


def _chunk(
    index: int,
    delta: dict[str, Any],
    finish: str | None = None,
    scores: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish}
    if scores is not None:
        choice["logprobs"] = _scores(scores)
    return {"choices": [choice]}
