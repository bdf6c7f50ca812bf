"""`n` answers to one request, as clients see them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.service.gateway.conftest import Client, StartGateway
from tests.service.gateway.stream.test_relay import state_of
from tests.service.gateway.test_auth import write_keys

TEXT = [{"type": "text", "text": "A cat."}]


async def test_a_stream_of_several_answers(client: Client) -> None:
    document = {"content": TEXT, "n": 2, "stream": True, "image": {"seed": 4}}
    whole = await client.events("POST", "/generate", json=document)
    events = [event for _, event in whole]

    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [e["type"] for e in events if e["type"].startswith("response.")] == [
        "response.created", "response.queued", "response.completed",
    ]  # fmt: skip
    assert events[-2]["type"] == "usage" and "choice" not in events[-2]
    assert (events[-2]["images"], events[-2]["prompt_tokens"]) == (2, 10)
    for choice in (0, 1):
        own = [event for event in events if event.get("choice") == choice]
        text = "".join(e["text"] for e in own if e["type"] == "text.delta")
        assert text == "once upon the end"
        starts = [(e["index"], e["kind"]) for e in own if e["type"] == "part.start"]
        assert starts == [(0, "text"), (1, "image"), (2, "text")]
        assert own[-1]["type"] == "choice.completed"
    seeds = {e["choice"]: e["seed"] for e in events if e["type"] == "image.done"}
    assert seeds[0] == 4 and seeds[1] != 4
    path = f"/v1/requests/{events[0]['request_id']}/events"
    for number in range(0, len(whole) - 1, 3):
        options = {"headers": {"Last-Event-ID": whole[number][0]}}
        assert await client.events("GET", path, **options) == whole[number + 1 :]


async def test_a_document_of_several_answers(client: Client) -> None:
    document = {"content": TEXT, "n": 3, "image": {"return": "url", "seed": 4}}
    response = await client.post(document)

    assert response.status_code == 200
    answer = response.json()
    assert (answer["status"], answer["content"]) == ("completed", [])
    assert [choice["choice"] for choice in answer["choices"]] == [0, 1, 2]
    for choice in answer["choices"]:
        assert choice["status"] == "completed"
        assert [part["type"] for part in choice["content"]] == ["text", "image", "text"]
        assert (await client.http.get(choice["content"][1]["url"])).status_code == 200
        assert choice["usage"]["images"] == 1
    assert answer["usage"]["images"] == 3
    assert (await client.http.get(response.headers["location"])).json() == answer
    alone = (await client.post(document | {"n": 1})).json()
    assert "choices" not in alone
    assert alone["content"] == answer["choices"][0]["content"]


async def test_several_answers_with_one_idempotency_key(client: Client) -> None:
    headers, document = {"Idempotency-Key": "both"}, {"content": TEXT, "n": 2}
    first, again = [(await client.post(document, headers=headers)).json() for _ in range(2)]
    other = await client.post(document | {"n": 3}, headers=headers)

    assert first == again
    assert other.status_code == 409


async def test_leaving_and_deleting_end_all_answers(client: Client) -> None:
    client.workers.text.hold.clear()
    document = {"content": TEXT, "n": 2}
    left = await client.events("POST", "/generate", stop_after=4, json=document | {"stream": True})
    path = f"/v1/requests/{left[0][1]['request_id']}"
    assert await state_of(client, path, "cancelled") == "cancelled"
    accepted = await client.post(document | {"background": True})
    deleted = await client.http.delete(accepted.headers["location"])

    assert deleted.json()["status"] == "cancelled"
    assert [c["status"] for c in deleted.json()["choices"]] == ["cancelled", "cancelled"]


async def test_the_number_of_answers_is_limited(
    start_gateway: StartGateway, key_file: Path
) -> None:
    headers = write_keys(key_file, alice=["generate", "read"])["alice"]
    keys = json.loads(key_file.read_text())
    keys["keys"][0]["concurrent_requests"] = 2
    async with start_gateway(max_choices=3) as client:
        refused = [await client.post({"content": TEXT, "n": n}) for n in (4, 0, 17)]
        allowed = await client.post({"content": TEXT, "n": 3})
    key_file.write_text(json.dumps(keys))
    async with start_gateway(auth="keys", api_keys_file=key_file) as client:
        client.workers.text.hold.clear()
        too_many = await client.post({"content": TEXT, "n": 3}, headers=headers)
        document = {"content": TEXT, "n": 2, "background": True}
        taken = await client.post(document, headers=headers)
        busy = await client.post({"content": TEXT}, headers=headers)

    assert [r.status_code for r in refused] == [422] * 3
    assert [r.json()["error"]["code"] for r in refused] == [
        "too_many_choices", "invalid_value", "invalid_value",
    ]  # fmt: skip
    assert all(r.json()["error"]["param"] == "n" for r in refused)
    assert allowed.status_code == 200
    assert too_many.json()["error"]["code"] == "too_many_choices"
    assert (taken.status_code, busy.status_code) == (202, 429)


async def test_one_failed_answer_does_not_cost_the_others(client: Client) -> None:
    engine, generate = client.workers.text, client.workers.text.generate

    def fails_once(context, sampling, request_id, *rest, **options):  # type: ignore[no-untyped-def]
        if request_id.partition("/")[0].endswith(".1"):
            raise RuntimeError("a bug")
        return generate(context, sampling, request_id, *rest, **options)

    engine.generate = fails_once  # type: ignore[method-assign]
    answer = (await client.post({"content": TEXT, "n": 2})).json()
    streamed = await client.events(
        "POST", "/generate", json={"content": TEXT, "n": 2, "stream": True}
    )

    assert (answer["status"], answer["reason"]) == ("incomplete", "choice_failed")
    assert [c["status"] for c in answer["choices"]] == ["completed", "failed"]
    assert answer["choices"][1]["error"]["code"] == "generation_failed"
    assert streamed[-1][1]["type"] == "response.incomplete"
    assert streamed[-1][1]["reason"] == "choice_failed"
