"""A shard of pairs and a document."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> str:
    members: dict[str, bytes] = {}
    for number in range(4):
        members |= {f"{number}.png": _png("red"), f"{number}.txt": f"caption {number}".encode()}
    document = {
        "text_list": ["one", "two"],
        "image_info": [{"image_name": "a.png", "matched_text_index": 1}],
    }
    members |= {"doc.json": json.dumps(document).encode(), "doc.a.png": _png("blue")}
    with tarfile.open(tmp_path / "shard0.tar", "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(tmp_path / "*.tar")
