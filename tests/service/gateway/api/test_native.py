"""The main path: a request in, an interleaved answer out, in every form it can be asked for."""

from __future__ import annotations

import base64
import io
import json

from PIL import Image

from model.segments import RoleSegment
from tests.service.gateway.conftest import Client, StartGateway

TEXT = [{"type": "text", "text": "A cat."}]


async def test_events_come_in_order_and_end_once(client: Client, picture: bytes) -> None:
    content = [*TEXT, {"type": "image", "b64": base64.b64encode(picture).decode()}]
    document = {"content": content, "stream": True, "image": {"previews": 1}}

    events = await client.events("POST", "/generate", json=document)

    kinds = [event["type"] for _, event in events]
    assert kinds[:2] == ["response.created", "response.queued"]
    assert kinds[-2:] == ["usage", "response.completed"]
    assert sum(kind.startswith("response.c") for kind in kinds) == 2
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    assert len({event_id for event_id, _ in events}) == len(events)
    assert len({event["request_id"] for _, event in events}) == 1
    starts = [(e["index"], e["kind"]) for _, e in events if e["type"] == "part.start"]
    assert starts == [(0, "text"), (1, "image"), (2, "text")]
    text = "".join(e["text"] for _, e in events if e["type"] == "text.delta")
    assert text == "once upon the end"
    done = next(e for _, e in events if e["type"] == "image.done")
    assert Image.open(io.BytesIO(base64.b64decode(done["b64"]))).size == (16, 16)
    assert any(e["type"] == "image.preview" and e["b64"] for _, e in events)


async def test_whole_answer_has_the_same_parts(client: Client) -> None:
    response = await client.post({"content": TEXT, "image": {"return": "url", "seed": 5}})

    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "completed"
    assert [part["type"] for part in answer["content"]] == ["text", "image", "text"]
    assert answer["content"][0]["text"] == "once upon "
    image = answer["content"][1]
    assert image["seed"] == 5 and image["b64"] is None
    fetched = await client.http.get(image["url"])
    assert fetched.headers["content-type"] == image["mime"] == "image/png"
    assert response.headers["location"] == f"/v1/requests/{answer['id']}"
    again = await client.http.get(response.headers["location"])
    assert again.json() == answer


async def test_forms_keep_their_order(client: Client, picture: bytes) -> None:
    boundary = "x" * 20
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode()
        + value
        + b"\r\n"
        for name, extra, value in (
            ("text", "", b"before"),
            ("image", '; filename="a.png"', picture),
            ("text", "", b"after"),
            ("max_tokens", "", b"9"),
            ("image", "", b'{"steps": 3}'),
        )
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}

    response = await client.http.post(
        "/generate", content=body + f"--{boundary}--\r\n".encode(), headers=headers
    )

    assert response.status_code == 200, response.text
    context = client.workers.text.contexts[0]
    *content, answer = context
    assert [getattr(part, "text", "image") for part in content] == ["before", "image", "after"]
    assert answer == RoleSegment("assistant")
    assert client.workers.text.samplings[0].max_tokens == 9
    assert client.workers.images.samplings[0].num_inference_steps == 3


async def test_uploads_by_name(client: Client, picture: bytes) -> None:
    document = {"content": [{"type": "image", "upload": "cat"}, *TEXT]}
    files = {"cat": ("cat.png", picture)}

    response = await client.http.post(
        "/v1/generate", data={"request": json.dumps(document)}, files=files
    )

    assert response.status_code == 200, response.text


async def test_output_modalities(client: Client) -> None:
    text = await client.post({"content": TEXT, "output_modalities": ["text"]})
    image = await client.post({"content": TEXT, "output_modalities": ["image"], "max_images": 1})

    assert [part["type"] for part in text.json()["content"]] == ["text"]
    assert [part["type"] for part in image.json()["content"]] == ["image"]


async def test_background(client: Client) -> None:
    accepted = await client.post({"content": TEXT, "background": True})

    assert accepted.status_code == 202
    events = await client.events("GET", accepted.headers["location"] + "/events")
    assert events[-1][1]["type"] == "response.completed"


async def test_an_image_can_be_referred_to_by_its_hash(client: Client) -> None:
    first = (await client.post({"content": TEXT})).json()
    digest = first["content"][1]["sha256"]

    second = await client.post({"content": [{"type": "image", "sha256": digest}, *TEXT]})
    unknown = await client.post({"content": [{"type": "image", "sha256": "0" * 64}, *TEXT]})

    assert second.status_code == 200
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "image_not_found"


async def test_images_keep_nothing_but_their_pixels(client: Client) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    output = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(output, "JPEG", exif=exif)
    b64 = "data:image/jpeg;base64," + base64.b64encode(output.getvalue()).decode()

    await client.post({"content": [{"type": "image", "b64": b64}, *TEXT]})

    stored = client.workers.text.contexts[0][0].image
    assert stored.size == (30, 40)
    assert not stored.getexif() and b"secret" not in stored.tobytes()


async def test_idempotency_key_returns_the_same_request(client: Client) -> None:
    headers = {"Idempotency-Key": "order-1"}

    first = await client.post({"content": TEXT}, headers=headers)
    again = await client.post({"content": TEXT}, headers=headers)
    other = await client.post({"content": TEXT, "seed": 1}, headers=headers)

    assert first.json() == again.json()
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "idempotency_conflict"


async def test_request_id_is_echoed(client: Client) -> None:
    response = await client.http.get("/livez", headers={"X-Request-ID": "abc-1"})
    odd = await client.http.get("/livez", headers={"X-Request-ID": "a b\tc"})

    assert response.headers["x-request-id"] == "abc-1"
    assert odd.headers["x-request-id"] != "a b\tc"


async def test_full_queue_refuses_before_the_stream(start_gateway: StartGateway) -> None:
    async with start_gateway(max_active_requests=1) as client:
        client.workers.text.hold.clear()
        await client.post({"content": TEXT, "background": True})

        response = await client.post({"content": TEXT, "stream": True})

        assert response.status_code == 429
        assert response.json()["error"]["retryable"] is True
        assert int(response.headers["retry-after"]) >= 1
