from __future__ import annotations

import json

import pytest

from service.errors import DecodeError
from service.messages import ImageTask, TextTask, decode_task

TEXT = TextTask(request_id="req_1", turn=0)
IMAGE = ImageTask(request_id="req_1", turn=1, index=1, image_tokens="0" * 64, seed=4)


def test_the_type_chooses_the_task() -> None:
    for task in (TEXT, IMAGE):
        assert decode_task(task.model_dump_json()) == task


@pytest.mark.parametrize(
    "change", [{"type": "sound"}, {"version": 2}, {"turn": -1}, {"image_tokens": "short"}]
)
def test_another_version_or_form_is_refused(change: dict[str, object]) -> None:
    document = IMAGE.model_dump(mode="json") | change
    with pytest.raises(DecodeError):
        decode_task(json.dumps(document))


def test_bytes_that_are_no_json() -> None:
    with pytest.raises(DecodeError):
        decode_task(b"\xff")
