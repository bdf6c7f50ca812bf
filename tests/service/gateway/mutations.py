"""Requests that are nearly right: mutated documents, images, forms and bytes, from one seed."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

from PIL import Image

from tests.service.gateway.conftest import encode

_ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 1e308, -0.0, 0.5, "", " ",
    "a" * 300, "A" * 4097, "\x00", "\u202e", "../../etc/passwd", "<script>", "{{7*7}}", "%s%n",
    "true", "NaN", "data:image/png;base64,", [], {}, [[]], [None], {"type": "image"},
    {"type": "text"},
]  # fmt: skip
_BYTES = [
    b"\x00", b"\xff", b'"', b"{", b"}", b"[", b"\\", b",", b"\r\n", b"1e999", b"NaN",
    b"\xed\xa0\x80",
]  # fmt: skip


def base_documents(rng: random.Random) -> dict[str, Any]:
    """A valid request with many fields."""
    size = (rng.randint(4, 40), rng.randint(4, 40))
    picture = encode(
        Image.effect_noise(size, 60).convert("RGB"), rng.choice(["PNG", "JPEG", "WEBP"])
    )
    return {
        "content": [
            {"type": "text", "text": "A cat."},
            {"type": "image", "b64": base64.b64encode(picture).decode()},
        ],
        "output_modalities": ["text", "image"],
        "max_tokens": 8,
        "max_images": 1,
        "temperature": 0.5,
        "stop": ["x"],
        "logit_bias": {"5": 1.0},
        "seed": 3,
        "n": rng.choice([1, 1, 2]),
        "logprobs": 1,
        "draw_now": False,
        "stream": rng.random() < 0.2,
        "deadline_ms": 2000,
        "priority": "interactive",
        "image": {"steps": 2, "seed": 4, "format": "png", "return": "url", "previews": 1},
    }


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All (container, key) of a document."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def mutate_document(rng: random.Random, document: Any) -> Any:
    """One to three places replaced, removed, doubled or renamed."""
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(list(_places(document)) or [(document, "x")])
        kind = rng.randrange(4)
        if kind == 0 or isinstance(container, list):
            container[key] = rng.choice(_ODD)
        elif kind == 1:
            container.pop(key)
        elif kind == 2:
            container[str(rng.choice(_ODD))[:70]] = container[key]
        elif isinstance(container[key], list):
            container[key] = container[key] * rng.choice([0, 2, 20])
    return document


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut out, doubled or inserted."""
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if not mutated:
            break
        place = rng.randrange(len(mutated))
        kind = rng.randrange(4)
        if kind == 0:
            mutated[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del mutated[place : place + rng.randint(1, 40)]
        elif kind == 2:
            mutated[place:place] = mutated[place : place + rng.randint(1, 40)]
        else:
            mutated[place:place] = rng.choice(_BYTES)
    return bytes(mutated)


def _image_mutation(rng: random.Random) -> bytes:
    kind = rng.choice(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    data = encode(Image.effect_noise((24, 24), 60).convert("RGB"), kind)
    data = mutate_bytes(rng, data)
    part = {"type": "image", "b64": base64.b64encode(data).decode()}
    document = {"content": [part], "max_tokens": 4, "output_modalities": ["text"]}
    return json.dumps(document).encode()


def _form_mutation(rng: random.Random) -> tuple[bytes, str]:
    document = json.dumps(base_documents(rng)["content"][:1])
    picture = encode(Image.new("RGB", (9, 9)))
    fields = [
        b'name="text"\r\n\r\nA cat.',
        b'name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + picture,
        b'name="max_tokens"\r\n\r\n4',
        b'name="content"\r\n\r\n' + document.encode(),
    ]
    rng.shuffle(fields)
    parts = [b"--b\r\nContent-Disposition: form-data; " + field + b"\r\n" for field in fields]
    body = b"".join(parts[: rng.randint(0, 4)]) + b"--b--\r\n"
    return mutate_bytes(rng, body), "multipart/form-data; boundary=b"


def mutated_requests(seed: int, count: int) -> Iterator[tuple[str, bytes, str]]:
    """`count` times path, body and content type."""
    rng = random.Random(seed)
    for number in range(count):
        kind = number % 4
        if kind == 0:
            document = mutate_document(rng, base_documents(rng))
            yield "/generate", json.dumps(document).encode(), "application/json"
        elif kind == 1:
            body = mutate_bytes(rng, json.dumps(base_documents(rng)).encode())
            yield "/generate", body, "application/json"
        elif kind == 2:
            yield "/generate", _image_mutation(rng), "application/json"
        else:
            yield "/generate", *_form_mutation(rng)
