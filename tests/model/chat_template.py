"""A chat template without special tokens of its own, for checkpoints that have none to spare."""

from __future__ import annotations

import json
from pathlib import Path

from model.checkpoint import store

TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}system>\nBe kind.</s>\n{% endif %}"
    "{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('the system speaks first') }}"
    "{% endif %}"
    "{{ message.role }}>\n{{ message.content }}</s>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant>\n{% endif %}"
)


def give_template(checkpoint: Path) -> None:
    """Make the prompts of a checkpoint follow the template."""
    path = checkpoint / store.TOKENIZER_CONFIG
    settings = json.loads(path.read_text()) | {store.CHAT_TEMPLATE: TEMPLATE}
    path.write_text(json.dumps(settings))
    store.write_manifest(checkpoint)
