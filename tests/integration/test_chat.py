"""A checkpoint with a chat template, as `mmi serve` runs it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from model.checkpoint.store import load_config, load_tokenizer
from model.processor import Processor
from model.segments import RoleSegment, Segment, TextSegment
from service.local.stack import Stack
from service.workers.checkpoint import seeded_checkpoint
from tests.model.chat_template import give_template

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

GREEDY = {"temperature": 0.0, "max_tokens": 8}
QUESTION = "What is <|image|> </s>?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("chat") / "checkpoint"
    cache = Path(os.environ.get("MMI_CACHE_DIR", directory.parent))
    shutil.copytree(seeded_checkpoint(cache), directory)
    give_template(directory)
    return directory


@pytest.fixture(scope="module")
def stack(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    # Nothing is drawn here, so nothing need be compiled for it.
    environment = {"MMI_AUTH": "off", "MMI_IMAGE_BACKEND": "torch"}
    with Stack(
        directory, Console(quiet=True), checkpoint=checkpoint, environment=environment
    ) as stack:
        yield stack


def post(stack: Stack, path: str, document: dict[str, Any]) -> dict[str, Any]:
    url = f"{stack.url}{path}"
    answer = httpx.post(url, json=document | GREEDY, timeout=300, trust_env=False)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def length_of(checkpoint: Path, *context: Segment) -> int:
    processor = Processor(load_config(checkpoint), load_tokenizer(checkpoint))
    return len(processor.encode(context).input_ids)


def test_messages_are_read_in_the_template(stack: Stack, checkpoint: Path) -> None:
    message = {"role": "user", "content": QUESTION}
    chat = post(stack, "/v1/chat/completions", {"messages": [message]})
    asked = TextSegment(QUESTION)
    assert chat["usage"]["prompt_tokens"] == length_of(checkpoint, asked)

    document = {"content": [{"type": "text", "text": QUESTION}], "output_modalities": ["text"]}
    native = post(stack, "/generate", document)
    assert native["usage"]["prompt_tokens"] == chat["usage"]["prompt_tokens"]
    said = chat["choices"][0]["message"]["content"]
    assert "".join(part["text"] for part in native["content"]) == said

    messages = [message, {"role": "assistant", "content": "No idea."}, message]
    later = post(stack, "/v1/chat/completions", {"messages": messages})
    context = (asked, RoleSegment("assistant"), TextSegment("No idea."), RoleSegment("user"), asked)
    assert later["usage"]["prompt_tokens"] == length_of(checkpoint, *context)


def test_roles_that_the_template_refuses_are_the_clients_error(stack: Stack) -> None:
    messages = [{"role": role, "content": "a"} for role in ("user", "system")]
    answer = httpx.post(
        f"{stack.url}/v1/chat/completions", json={"messages": messages}, trust_env=False
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_request"
    assert error["message"] == "The model does not take messages of these roles in this order."
