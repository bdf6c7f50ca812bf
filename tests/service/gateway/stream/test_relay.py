"""Streams that break, are resumed, or whose client has left."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.service.gateway.conftest import Client, StartGateway

TEXT = [{"type": "text", "text": "A cat."}]


async def state_of(client: Client, path: str, wanted: str) -> str:
    """The request's state, once it is the wanted one (or after a while)."""
    state = ""
    for _ in range(100):
        state = (await client.http.get(path)).json()["status"]
        if state == wanted:
            break
        await asyncio.sleep(0.02)
    return state


@pytest.mark.parametrize("by_header", [True, False])
async def test_resume_is_exact_from_every_event(client: Client, by_header: bool) -> None:
    whole = await client.events("POST", "/generate", json={"content": TEXT, "stream": True})
    path = f"/v1/requests/{whole[0][1]['request_id']}/events"

    for number, (event_id, _) in enumerate(whole[:-1]):
        options = {"headers": {"Last-Event-ID": event_id}}
        if not by_header:
            options = {"params": {"after": event_id}}
        assert await client.events("GET", path, **options) == whole[number + 1 :]
    assert await client.events("GET", path) == whole


async def test_resume_in_the_middle_on_another_gateway(
    client: Client, start_gateway: StartGateway
) -> None:
    client.workers.text.hold.clear()
    document = {"content": TEXT, "stream": True, "on_disconnect": "continue"}
    first = await client.events("POST", "/generate", stop_after=3, json=document)
    request_id = first[0][1]["request_id"]
    settings = client.gateway.settings

    from tests.service.gateway.conftest import running

    async with running(settings) as other:
        client.workers.text.hold.set()
        other.workers.text.hold.set()
        options = {"headers": {"Last-Event-ID": first[-1][0]}}
        rest = await other.events("GET", f"/v1/requests/{request_id}/events", **options)

    numbers = [event["sequence_number"] for _, event in first + rest]
    assert numbers == list(range(len(numbers)))
    assert rest[-1][1]["type"] == "response.completed"


async def test_bad_and_expired_cursors(client: Client) -> None:
    whole = await client.events("POST", "/generate", json={"content": TEXT, "stream": True})
    request_id = whole[0][1]["request_id"]
    path = f"/v1/requests/{request_id}/events"

    bad = await client.http.get(path, params={"after": "x"})
    future = await client.http.get(path, params={"after": "99999999999999-0"})
    await client.gateway.broker.call("DEL", client.gateway.broker.keys.events(request_id))
    gone = await client.http.get(path, params={"after": whole[2][0]})

    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_cursor")
    assert (future.status_code, future.json()["error"]["code"]) == (410, "cursor_expired")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "cursor_expired")


async def test_leaving_cancels_unless_asked_not_to(client: Client) -> None:
    client.workers.text.hold.clear()
    states = {}
    for choice in ("cancel", "continue"):
        document = {"content": TEXT, "stream": True, "on_disconnect": choice}
        events = await client.events("POST", "/generate", stop_after=3, json=document)
        path = f"/v1/requests/{events[0][1]['request_id']}"
        wanted = "cancelled" if choice == "cancel" else "in_progress"
        states[choice] = await state_of(client, path, wanted)

    assert states == {"cancel": "cancelled", "continue": "in_progress"}


async def test_leaving_a_waiting_call_cancels(client: Client) -> None:
    client.workers.text.hold.clear()
    with pytest.raises(httpx.ReadTimeout):
        await client.post({"content": TEXT}, timeout=0.4)

    request_id = client.workers.text.requests[0]
    assert await state_of(client, f"/v1/requests/{request_id}", "cancelled") == "cancelled"


async def test_delete_ends_the_stream(client: Client) -> None:
    client.workers.text.hold.clear()
    document = {"content": TEXT, "background": True}
    path = (await client.post(document)).headers["location"]
    following = asyncio.create_task(client.events("GET", path + "/events"))
    await state_of(client, path, "in_progress")

    deleted = await client.http.delete(path)
    events = await following
    again = await client.http.delete(path)

    assert deleted.status_code == 200 and deleted.json()["status"] == "cancelled"
    assert [e["type"] for _, e in events][-1] == "response.cancelled"
    assert again.json() == deleted.json()


async def test_deadline_ends_a_request(client: Client) -> None:
    client.workers.text.hold.clear()
    document = {"content": TEXT, "stream": True, "deadline_ms": 300}

    events = await client.events("POST", "/generate", json=document)

    assert events[-1][1]["type"] == "response.incomplete"
    assert events[-1][1]["reason"] == "deadline"


async def test_silent_streams_are_kept_alive(start_gateway: StartGateway) -> None:
    async with start_gateway(ping_s=0.05) as client:
        client.workers.text.hold.clear()
        lines = []
        document = {"content": TEXT, "stream": True}
        async with client.http.stream("POST", "/generate", json=document) as response:
            async for line in response.aiter_lines():
                lines.append(line)
                if lines.count(": ping") == 3:
                    break
        assert lines[0].startswith("retry: ")


async def test_stopping_ends_streams_with_a_hint_and_cancels_nothing(client: Client) -> None:
    client.workers.text.hold.clear()
    text = ""
    document = {"content": TEXT, "stream": True}
    async with client.http.stream("POST", "/generate", json=document) as response:
        async for piece in response.aiter_text():
            text += piece
            if "text.delta" in text:
                client.gateway.relay.stopping.set()
    assert "reconnect with Last-Event-ID" in text
    path = response.headers["location"]
    assert (await client.http.get(path)).json()["status"] == "in_progress"
    assert (await client.http.get("/readyz")).status_code == 503


async def replace_last_event(client: Client, request_id: str) -> None:
    """What a crash of Redis and another attempt at the turn leave: another last event."""
    broker = client.gateway.broker
    events = broker.keys.events(request_id)
    [(entry_id, fields)] = await broker.call("XREVRANGE", events, "+", "-", "COUNT", 1)
    await broker.call("XDEL", events, entry_id)
    number, kind, data = int(fields[b"n"]), "text.delta", '{"index":0,"text":"other"}'
    new_id = await broker.call("XADD", events, "*", "n", number, "t", kind, "d", data)
    told = json.dumps([[new_id.decode(), number, kind, data]])
    await broker.call("PUBLISH", events, told)


async def test_a_stream_whose_events_were_replaced_ends_and_cannot_be_resumed(
    client: Client,
) -> None:
    client.workers.text.hold.clear()
    document = {"content": TEXT, "stream": True, "on_disconnect": "continue"}
    received = []
    async with client.http.stream("POST", "/generate", json=document) as response:
        path = response.headers["location"]
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                received.append(line[4:])
            if line == "event: text.delta":
                await replace_last_event(client, path.rpartition("/")[2])

    resumed = await client.http.get(f"{path}/events", params={"after": received[-1]})
    assert (resumed.status_code, resumed.json()["error"]["code"]) == (410, "cursor_expired")
    client.workers.text.hold.set()
    again = await client.events("GET", f"{path}/events")
    assert again[-1][1]["type"] == "response.completed"


async def test_a_waiting_call_outlives_replaced_events(client: Client) -> None:
    client.workers.text.hold.clear()
    waiting = asyncio.create_task(client.post({"content": TEXT}))
    while not client.workers.text.requests:
        await asyncio.sleep(0.01)
    request_id = client.workers.text.requests[0].partition("/")[0]
    events = client.gateway.broker.keys.events(request_id)
    while not await client.gateway.broker.call("XRANGE", events, "-", "+", "COUNT", 4):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    await replace_last_event(client, request_id)
    client.workers.text.hold.set()

    assert (await waiting).json()["status"] == "completed"
