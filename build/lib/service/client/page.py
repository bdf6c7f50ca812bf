"""Save an answer: its images, and one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.client.stream import Given, StreamedAnswer

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark;
  --ink: #1d1c1a; --paper: #faf9f6; --line: #dedbd2; --dim: #77736a }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #ebe8e1; --paper: #191816; --line: #37342e; --dim: #9a958a }} }}
body {{ margin: 0 auto; max-width: 44rem; padding: 3rem 1.25rem; background: var(--paper);
  color: var(--ink); font: 1.06rem/1.65 Georgia, "Noto Serif", serif }}
h2 {{ font: 600 .78rem/1 system-ui, sans-serif; letter-spacing: .08em; text-transform: uppercase;
  color: var(--dim); border-top: 1px solid var(--line); padding-top: 1.4rem;
  margin: 2.4rem 0 1rem }}
p {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 1.1rem }}
img {{ display: block; max-width: 100%; min-width: 12rem; border-radius: .5rem; margin: 0 0 .4rem }}
small {{ display: block; color: var(--dim); font: .78rem/1.4 system-ui, sans-serif;
  margin-bottom: 1.2rem }}
</style></head><body>
<h2>Given</h2>
{given}
{answers}
<small>{foot}</small>
</body></html>
"""


def save_answer(
    given: list[Given],
    answer: StreamedAnswer,
    read_image: Callable[[dict[str, Any]], bytes],
    directory: Path,
) -> tuple[list[Path], Path]:
    """Write the images and the page into `directory`; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    images: list[Path] = []
    blocks: list[str] = []
    for number, one in enumerate(answer.alternatives, 1):
        blocks.append(f"<h2>Answer {number}</h2>" if answer.choices else "<h2>Answer</h2>")
        for part in one.ordered:
            if part["type"] == "text":
                blocks.append(_text(part["text"]))
            elif "sha256" in part:
                data = read_image(part)
                images.append(_save(data, part["mime"], directory, len(images) + 1))
                note = f"{part['width']} x {part['height']}, seed {part['seed']}"
                blocks.append(_image(data, part["mime"], note))
    end = (answer.end or {"type": "unfinished"})["type"].removeprefix("response.")
    usage = ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in answer.usage.items()
                     if k not in ("type", "sequence_number", "request_id"))  # fmt: skip
    page = directory / "index.html"
    page.write_text(
        _PAGE.format(
            title="An interleaved answer",
            given="\n".join(map(_given, given)),
            answers="\n".join(blocks),
            foot=html.escape(f"{end}. {usage}"),
        ),
        encoding="utf-8",
    )
    return images, page


def _save(data: bytes, mime: str, directory: Path, number: int) -> Path:
    suffix = "jpg" if mime == "image/jpeg" else mime.partition("/")[2]
    path = directory / f"image-{number}.{suffix}"
    path.write_bytes(data)
    return path


def _given(part: Given) -> str:
    if part.path is None:
        return _text(part.text or "")
    mime = mimetypes.guess_type(part.path.name)[0] or "image/png"
    return _image(part.path.read_bytes(), mime, part.path.name)


def _text(text: str) -> str:
    return f"<p>{html.escape(text.strip())}</p>"


def _image(data: bytes, mime: str, note: str) -> str:
    b64 = base64.b64encode(data).decode()
    return f'<img alt="" src="data:{mime};base64,{b64}">\n<small>{html.escape(note)}</small>'
