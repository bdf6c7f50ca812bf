"""Readers of WebDataset shards: tar files whose members share a stem for each sample.

Paired: `KEY.jpg` (or png, webp) and `KEY.txt`, or `KEY.json` with a `caption`.
Interleaved, as MMC4: `KEY.json` with `text_list` and `image_info`, a list of `image_name` and
`matched_text_index`; the images lie beside it as `KEY.IMAGE_NAME`, or by their name alone.
"""

from __future__ import annotations

import glob
import io
import json
import random
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from model.processor import centre_crop
from model.training.world.drawn.painting.scene import BASE_SIZE
from model.training.world.example import Example, Part

_IMAGES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class FileImage:
    """An image that was read from a shard."""

    image: Image.Image

    def render(self, size: int = BASE_SIZE) -> Image.Image:
        """The centre, RGB, `size` square."""
        return centre_crop(self.image, size)


def samples(path: Path) -> Iterator[dict[str, bytes]]:
    """The samples of a shard: what follows the stem of each member, and its bytes."""
    current: dict[str, bytes] = {}
    stem = ""
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.isfile():
                continue
            name = PurePosixPath(member.name)
            key, _, rest = name.name.partition(".")
            key = str(name.parent / key)
            if key != stem and current:
                yield current
                current = {}
            stem = key
            file = archive.extractfile(member)
            assert file is not None
            current[rest] = file.read()
    if current:
        yield current


def paired(sample: Mapping[str, bytes]) -> Example | None:
    """An image-caption pair as text-to-image or captioning; None if it is not one."""
    image = next((data for name, data in sample.items() if f".{name}" in _IMAGES), None)
    if "txt" in sample:
        caption = sample["txt"].decode()
    else:
        caption = json.loads(sample.get("json", b"{}")).get("caption", "")
    if image is None or not caption.strip():
        return None
    return Example("paired", (), (caption.strip(), _read(image)))


def interleaved(sample: Mapping[str, bytes]) -> Example | None:
    """A document of texts, each image before the text that it belongs to; None if it is none."""
    document: dict[str, Any] = json.loads(sample.get("json", b"{}"))
    texts, infos = document.get("text_list", []), document.get("image_info", [])
    before: dict[int, list[FileImage]] = {}
    for info in infos:
        if (data := sample.get(info["image_name"])) is not None:
            before.setdefault(int(info["matched_text_index"]), []).append(_read(data))
    if not texts or not before:
        return None
    parts: list[Part] = []
    for index, text in enumerate(texts):
        parts += [*before.get(index, []), text.strip()]
    return Example("interleaved", (), tuple(part for part in parts if part))


def _read(data: bytes) -> FileImage:
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
        return FileImage(image.convert("RGB"))


class ShardReader:
    """Examples of all shards of a pattern, in a shuffled order that depends on the seed alone."""

    def __init__(self, pattern: str, seed: int = 0, buffer: int = 256) -> None:
        self.paths = [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207
        if not self.paths:
            raise FileNotFoundError(f"no shard matches {pattern}")
        self.seed, self.buffer = seed, buffer

    def epoch(self, number: int) -> Iterator[Example]:
        """One pass over all samples; those that are neither paired nor interleaved are skipped."""
        rng = random.Random(f"{self.seed}/{number}")
        paths = rng.sample(self.paths, len(self.paths))
        held: list[Example] = []
        for path in paths:
            for sample in samples(path):
                is_document = "text_list" in sample.get("json", b"").decode()
                example = interleaved(sample) if is_document else paired(sample)
                if example is None:
                    continue
                held.append(example)
                if len(held) > self.buffer:
                    yield held.pop(rng.randrange(len(held)))
        rng.shuffle(held)
        yield from held

    def __iter__(self) -> Iterator[Example]:
        """All epochs, endlessly."""
        number = 0
        while True:
            yield from self.epoch(number)
            number += 1
