"""Every key and channel has its line in the legend of `service/broker/keys.py`."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from service.broker import keys
from service.broker.blobs import BlobStore
from service.broker.keys import PRIORITIES, Keyspace
from service.broker.model_card import publish
from service.broker.owners import IdempotencyKey, OwnerLimits
from service.broker.redis.connection import Broker
from service.broker.stream.events import EventHub
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.messages import ModelCard, Request, TextPart

BROKER = Path(keys.__file__).parent
SERVICE = BROKER.parent
_SAMPLES: dict[str, object] = {
    "stage": "text",
    "priority": "interactive",
    "partition": 1,
    "request_id": "req_a.1",
    "owner": "alice",
    "sha256": "0" * 64,
    "name": "my key",
}
_PARTS = {"<p>": r"\d+", "<s>": "(text|image)", "<sha256>": "[0-9a-f]{64}", "<n>": r"\d+"}


def legend() -> list[re.Pattern[str]]:
    """The lines of the legend, as patterns; a line without a key is another type of the last."""
    assert keys.__doc__
    names = re.findall(r"^    (mmi:\S+)", keys.__doc__, re.MULTILINE)
    patterns = []
    for name in names:
        pattern = re.escape(name)
        for part, regex in _PARTS.items():
            pattern = pattern.replace(re.escape(part), regex)
        patterns.append(re.compile(re.sub(r"<\w+>", r"[\\w-]+", pattern)))
    return patterns


def generated() -> set[str]:
    """A name from every method of the key space, for all stages and priorities."""
    space, names = Keyspace(num_partitions=4), set()
    for method, function in inspect.getmembers(space, inspect.ismethod):
        if method.startswith(("_", "all_", "partition")):
            continue
        parameters = list(inspect.signature(function).parameters)
        for stage in ("text", "image"):
            for priority in PRIORITIES:
                values = _SAMPLES | {"stage": stage, "priority": priority}
                names.add(function(*(values[name] for name in parameters)))
    return names | {space.request("req_a")}


def test_every_name_has_a_line_and_every_line_a_name() -> None:
    patterns, names = legend(), generated()
    for name in names:
        assert any(pattern.fullmatch(name) for pattern in patterns), name
    for pattern in patterns:
        assert any(pattern.fullmatch(name) for name in names), pattern.pattern


def test_no_other_module_makes_names() -> None:
    for path in SERVICE.rglob("*.py"):
        if path == Path(keys.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            # Neither `keys.load(0) + ":more"`, nor f"{keys.load(0)}:more", nor "mmi:...".
            added = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod)
            if added or isinstance(node, ast.JoinedStr):
                calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
                made = [ast.unparse(call.func) for call in calls]
                assert not any(re.search(r"keys\.\w+$", one) for one in made), (path, made)
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"\bmmi:\{", node.value) or "dead" in node.value, path


def test_scripts_use_only_the_keys_that_they_get() -> None:
    for path in (BROKER / "lua").glob("*.lua"):
        code = re.sub(r"--.*", "", path.read_text())
        assert "mmi:" not in code and not re.search(r"\{\w*\}:", code), path
        for command, key in re.findall(r"redis\.call\('(\w+)', *'?([\w.\[\]* +-]+)", code):
            if command == "TIME":
                continue
            if command in ("XINFO", "XGROUP"):
                assert re.search(rf"'{command}', '\w+', tasks\b", code)
                continue
            head = re.match(r"\w+", key)
            assert head and head[0] in _LUA_KEYS, (path.name, command, key)


_LUA_KEYS = {
    *("KEYS", "request", "events", "tasks", "next_tasks", "load", "deadlines", "dead"),
    *("bucket", "running", "once", "record", "group"),
}


async def test_every_stored_key_has_a_line(broker: Broker, queue: Queue) -> None:
    limits = OwnerLimits(max_concurrent=9, requests_per_minute=60)
    asked = Request(owner="alice", content=(TextPart(text="x"),), n=2)
    await queue.enqueue(asked, limits, IdempotencyKey("key", "abc"))
    leases = Leases(broker, "text", "w", 60, 5)
    [first, second] = await leases.claim(0, 2)
    await leases.begin(first)
    await leases.dead_letter(second, "test")
    await BlobStore(broker).put(b"bytes")
    card = ModelCard(
        max_prompt_tokens=10, max_images=1, tokens_per_image=2,
        words_per_token=1, characters_per_token=9,
    )  # fmt: skip
    await publish(broker, card)
    await broker.wait_until_on_disk()
    hub = EventHub(broker)
    await hub.start()
    following = hub.follow(asked.request_id)
    await anext(following)
    channels = await broker.call("PUBSUB", "CHANNELS", "*")

    names = [name.decode() for name in (*await broker.call("KEYS", "*"), *channels)]

    await following.aclose()
    await hub.stop()
    kinds = {re.sub(r"[0-9a-f]{32,}", "", name) for name in names}
    assert len(kinds) >= 12, kinds
    for name in names:
        assert any(pattern.fullmatch(name) for pattern in legend()), name


@pytest.mark.parametrize("num_partitions", [1, 3, 256])
def test_a_choice_is_stored_with_its_request(num_partitions: int) -> None:
    space = Keyspace(num_partitions=num_partitions)
    for number in range(50):
        request_id = f"req_{number}"
        assert space.partition(request_id) == space.partition(f"{request_id}.3")
        assert space.events(f"{request_id}.3") == space.events(request_id)
