"""What a new user may get wrong: a 4xx that names the field, and a service that goes on."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from tests.service.gateway.conftest import Client, StartGateway, encode

TEXT = {"type": "text", "text": "A cat."}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def huge_png(side: int) -> bytes:
    """A few hundred bytes that claim to be side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def image(data: bytes) -> dict[str, Any]:
    return {"content": [{"type": "image", "b64": b64(data)}]}


NOISE = Image.effect_noise((64, 64), 80).convert("RGB")

DOCUMENTS: dict[str, tuple[Any, int, str, str | None]] = {
    "empty content": ({"content": []}, 422, "invalid_value", "content"),
    "no content": ({}, 422, "missing_field", "content"),
    "empty text": ({"content": [TEXT | {"text": ""}]}, 422, "invalid_value", "content[0].text"),
    "text instead of base64": (
        {"content": [{"type": "image", "b64": "a photo of my cat!"}]},
        422,
        "invalid_base64",
        "content[0].b64",
    ),
    "a truncated PNG": (image(encode(NOISE)[:2000]), 422, "image_broken", "content[0].b64"),
    "a truncated JPEG": (image(encode(NOISE, "JPEG")[:900]), 422, "image_broken", "content[0].b64"),
    "a GIF": (image(encode(NOISE, "GIF")), 422, "image_format", "content[0].b64"),
    "an SVG": (image(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 422, "image_format", None),
    "a huge PNG": (image(huge_png(20_000)), 413, "image_too_large", "content[0].b64"),
    "a large PNG": (image(huge_png(6_000)), 413, "image_too_large", "content[0].b64"),
    "an unknown field": ({"content": [TEXT], "temprature": 1}, 422, "unknown_field", "temprature"),
    "an unknown part field": ({"content": [TEXT | {"txt": ""}]}, 422, "unknown_field", None),
    "negative steps": (
        {"content": [TEXT], "image": {"steps": -1}},
        422,
        "invalid_value",
        "image.steps",
    ),
    "steps as text": (
        {"content": [TEXT], "image": {"steps": "9"}},
        422,
        "invalid_value",
        "image.steps",
    ),
    "1000 images": (
        {"content": [{"type": "image", "b64": b64(encode(NOISE))}] * 1000},
        422,
        "too_many_images",
        "content",
    ),
    "a wrong type": ({"content": [{"type": "video"}]}, 422, "invalid_value", "content[0]"),
    "no image source": (
        {"content": [{"type": "image"}]},
        422,
        "invalid_value",
        "content[0]",
    ),
    "a URL": (
        {"content": [{"type": "image", "url": "http://169.254.169.254/latest"}]},
        422,
        "urls_disabled",
        "content[0].url",
    ),
    "an unknown upload": (
        {"content": [{"type": "image", "upload": "cat"}]},
        422,
        "unknown_upload",
        "content[0].upload",
    ),
    "another model": ({"content": [TEXT], "model": "gpt"}, 404, "model_not_found", "model"),
    "prompt embeddings": ({"content": [TEXT], "prompt_embeds": "AAAA"}, 422, "unknown_field", None),
    "a list": ([1, 2], 422, "invalid_value", None),
    "stream and background": (
        {"content": [TEXT], "stream": True, "background": True},
        422,
        "invalid_value",
        "background",
    ),
}


def assert_error(response: Any, status: int, code: str, param: str | None = None) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["message"] and error["type"]
    assert error["retryable"] in (True, False)
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_wrong_documents(client: Client, name: str, stream: bool) -> None:
    document, status, code, param = DOCUMENTS[name]
    if stream and isinstance(document, dict):
        document = {"stream": True} | document

    response = await client.post(document)

    assert_error(response, status, code, param)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "application/json", 400, "invalid_json"),
        (b"{", "application/json", 400, "invalid_json"),
        (b"[" * 100_000, "application/json", 400, "invalid_json"),
        (b"\xff\xfe", "application/json", 400, "invalid_json"),
        (b'{"content": [], "content": NaN}', "application/json", 422, "invalid_value"),
        (b"a=1", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"{}", "", 415, "unsupported_media_type"),
        (b"x", "multipart/form-data", 400, "invalid_multipart"),
        (b"x", "multipart/form-data; boundary=y", 400, "invalid_multipart"),
        (b"--y\r\n\r\nx\r\n--y--", "multipart/form-data; boundary=y", 400, "invalid_multipart"),
        (b"--y--\r\n", "multipart/form-data; boundary=y", 422, "missing_field"),
    ],
)
async def test_wrong_bodies(
    client: Client, body: bytes, content_type: str, status: int, code: str
) -> None:
    response = await client.http.post(
        "/generate", content=body, headers={"Content-Type": content_type}
    )

    assert_error(response, status, code)


async def test_a_large_file_is_refused_and_the_service_goes_on(client: Client) -> None:
    for files in ({"image": ("x.png", bytes(50_000_000))}, None):
        if files:
            response = await client.http.post("/generate", files=files)
        else:

            async def chunks() -> Any:
                for _ in range(50):
                    yield bytes(1_000_000)

            headers = {"Content-Type": "application/json"}
            response = await client.http.post("/generate", content=chunks(), headers=headers)
        assert_error(response, 413, "body_too_large")

    assert (await client.post({"content": [TEXT]})).status_code == 200


async def test_many_images_together(start_gateway: StartGateway) -> None:
    async with start_gateway(max_images_pixels=10_000) as client:
        part = {"type": "image", "b64": b64(encode(NOISE))}

        response = await client.post({"content": [part] * 3})

        assert_error(response, 413, "images_too_large", "content[2].b64")


async def test_bodies_together_are_bounded(start_gateway: StartGateway) -> None:
    async with start_gateway(max_body_bytes=100_000, max_bodies_bytes=100_000) as client:
        client.gateway.bodies.take(90_000)

        response = await client.post({"content": [TEXT | {"text": "x" * 20_000}]})

        assert response.status_code == 429
        assert "retry-after" in response.headers


async def test_unknown_addresses(client: Client) -> None:
    assert_error(await client.http.get("/nothing"), 404, "not_found")
    assert_error(await client.http.put("/generate"), 405, "method_not_allowed")
    assert_error(await client.http.get("/v1/requests/abc"), 404, "request_not_found")
    missing = "/v1/requests/req_" + "0" * 32
    assert_error(await client.http.get(missing), 404, "request_not_found")
    assert_error(await client.http.delete(missing), 404, "request_not_found")
    assert_error(await client.http.get(missing + "/events"), 404, "request_not_found")
    assert_error(await client.http.get("/v1/images/" + "0" * 64), 404, "image_not_found")
    assert_error(await client.http.get("/v1/images/..%2f..%2fetc"), 404, "not_found")


async def test_a_stored_blob_that_is_no_image_is_not_served(client: Client) -> None:
    sha256 = await client.gateway.images.add("anonymous", b"<script>alert(1)</script>")

    assert_error(await client.http.get(f"/v1/images/{sha256}"), 404, "image_not_found")
