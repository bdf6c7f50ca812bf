"""The image decoder with the recorded weights, and the maps of the recorded images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from model.image_decoder.image_decoder import ImageDecoder
from model.image_decoder.sampler import ImageSampler
from model.visual_tokenizer.visual_tokenizer import VisualTokenizer
from tests.model import golden


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="package")
def decoder() -> ImageDecoder:
    decoder = ImageDecoder(golden.config()).eval()
    decoder.load_state_dict(golden.part(golden.state_dict(), "image_decoder."))
    return decoder


@pytest.fixture(scope="package")
def maps() -> tuple[Tensor, ...]:
    tokenizer = VisualTokenizer(golden.config()).eval().requires_grad_(False)
    tokenizer.load_state_dict(golden.part(golden.state_dict(), "visual_tokenizer."))
    return tokenizer(golden.images()).maps


@pytest.fixture(scope="package")
def sampler(decoder: ImageDecoder) -> ImageSampler:
    return decoder.sampler()
