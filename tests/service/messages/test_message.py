"""Every message survives its JSON form, refuses unknown fields and names its version."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from model.sampling_params import SamplingParams, TokenScore
from service import messages
from service.errors import DecodeError
from service.messages import Message

SHA = "0" * 64
SCORE = TokenScore("cat", -0.5, (("cat", -0.5), ("dog", -1.5)))
IMAGE = {"sha256": SHA, "mime": "image/png", "width": 8, "height": 16, "seed": 7}
FAILURE = messages.Failure(type="server_error", code="internal_error", message="No.")
EXAMPLES: tuple[Message, ...] = (
    messages.TextPart(text="a cat"),
    messages.ImagePart(sha256=SHA),
    messages.AnswerLimits(max_tokens=3),
    messages.Request(
        content=(messages.TextPart(text="a cat"), messages.ImagePart(sha256=SHA)),
        sampling=SamplingParams(stop=("x",), logit_bias={3: -1.0}, seed=4),
        image=messages.RequestImageParams(num_inference_steps=3),
        n=2,
    ),
    messages.RolePart(role="system"),
    messages.TextTask(request_id="req_1", turn=0),
    messages.ImageTask(request_id="req_1", turn=1, index=1, image_tokens=SHA, seed=4),
    messages.ModelCard(
        max_prompt_tokens=9,
        max_images=1,
        tokens_per_image=2,
        words_per_token=1,
        characters_per_token=5,
    ),
    messages.TextResult(text="a cat", token_ids=(1, 2), logprobs=(SCORE,)),
    messages.StoredImage(**IMAGE),
    messages.ImageResult(**IMAGE),
    messages.Usage(images=3),
    FAILURE,
    messages.StoredFailure(**FAILURE.model_dump(), status=422),
    messages.ResponseCreated(),
    messages.ResponseQueued(position=2),
    messages.PartStartEvent(index=0, kind="text"),
    messages.TextDeltaEvent(index=0, text="a", logprobs=(SCORE,)),
    messages.ImageProgressEvent(index=1, step=2, total=3),
    messages.ImagePreviewEvent(index=1, n=1, mime="image/webp", sha256=SHA),
    messages.ImageDoneEvent(index=1, **IMAGE),
    messages.PartDoneEvent(index=1),
    messages.UsageEvent(prompt_tokens=4),
    messages.ErrorEvent(error=FAILURE),
    messages.ResponseCompleted(),
    messages.ResponseIncomplete(reason="deadline"),
    messages.ResponseFailed(error=FAILURE),
    messages.ResponseCancelled(),
)
STORED = (
    messages.Request,
    messages.TextTask,
    messages.ImageTask,
    messages.ModelCard,
    messages.TextResult,
    messages.ImageResult,
    messages.StoredFailure,
)


def kinds(base: type[Message] = Message) -> Iterator[type[Message]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("service.messages"):
            yield kind
            yield from kinds(kind)


def test_there_is_an_example_of_every_message() -> None:
    assert {type(one) for one in EXAMPLES} == set(kinds()) - {messages.Event}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_round_trip(message: Message) -> None:
    document = message.encode()

    assert type(message).decode(document) == message
    with pytest.raises(DecodeError):
        type(message).decode(json.dumps(json.loads(document) | {"new": 1}))
    with pytest.raises(DecodeError):
        type(message).decode(document[:-1])


@pytest.mark.parametrize("kind", STORED, ids=lambda kind: kind.__name__)
def test_stored_messages_carry_a_version_and_refuse_others(kind: type[Message]) -> None:
    [message] = [one for one in EXAMPLES if type(one) is kind]
    document = json.loads(message.encode())

    assert document.pop("version") == 1
    # What was written before there was a version is read as version 1.
    assert kind.decode(json.dumps(document)) == message
    with pytest.raises(DecodeError):
        kind.decode(json.dumps(document | {"version": 2}))


def test_tasks_and_results_are_read_by_their_type() -> None:
    for message in EXAMPLES:
        if isinstance(message, messages.TextTask | messages.ImageTask):
            assert messages.decode_task(message.encode()) == message
        if isinstance(message, messages.TextResult | messages.ImageResult):
            assert messages.decode_result(message.encode()) == message
    for decode in (messages.decode_task, messages.decode_result):
        with pytest.raises(DecodeError):
            decode('{"type": "sound"}')
