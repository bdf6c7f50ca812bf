"""Clean images: upright pixels within the limits."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from service.gateway.images.cleaning import ImageLimits, PixelBudget, clean_image, decode_base64
from service.gateway.problems import Problem
from tests.service.gateway.conftest import encode

LIMITS = ImageLimits(image_bytes=4000, image_pixels=2000, images_pixels=3000, stored_side=40)


def refusal(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(Problem) as raised:
        clean_image(data, "x", PixelBudget(limits))
    return raised.value.code


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(clean_image(data, "x", PixelBudget(LIMITS)).data))


def test_an_image_is_turned_upright_and_scaled_down() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (48, 20), "red"), "JPEG", exif=exif)

    image = opened(data)
    assert image.size == (17, 40) and not image.getexif()


def test_transparency_becomes_white_and_16_bits_are_scaled() -> None:
    assert opened(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))).getpixel((0, 0)) == (255,) * 3
    grey = opened(encode(Image.new("I;16", (8, 8), 0x8000))).getpixel((0, 0))
    assert isinstance(grey, tuple) and grey[0] in (127, 128)


def test_limits_of_one_image_and_of_all() -> None:
    budget = PixelBudget(LIMITS)
    data = encode(Image.new("RGB", (40, 50)))
    clean_image(data, "x", budget)
    with pytest.raises(Problem) as raised:
        clean_image(data, "x", budget)
    assert raised.value.code == "images_too_large"
    assert refusal(encode(Image.new("RGB", (50, 50)))) == "image_too_large"
    assert refusal(encode(Image.new("RGB", (3, 50)))) == "image_too_small"
    assert refusal(bytes(4001)) == "image_bytes"


def test_damage_and_other_formats_are_told_apart() -> None:
    assert refusal(b"GIF89a" + bytes(50)) == "image_format"
    assert refusal(encode(Image.linear_gradient("L").resize((30, 30)))[:-40]) == "image_broken"


def test_base64_with_or_without_a_data_url() -> None:
    text = base64.b64encode(b"bytes").decode()
    assert decode_base64(text, "x", LIMITS) == b"bytes"
    assert decode_base64(f"data:image/png;base64,{text}", "x", LIMITS) == b"bytes"
    for bad in ("", "?", "data:image/png,abc", f"data:;base64 {text}"):
        with pytest.raises(Problem):
            decode_base64(bad, "x", LIMITS)
