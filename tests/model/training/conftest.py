"""A model of the trained kind, small enough for a few steps in a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint.seeded import build_tokenizer
from model.config.presets import preset
from model.config.schema import MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.weights.start import initialise
from model.training.world.storybook.assets import packages

# NumPy looks once at how small numbers can be, and warns if denormals are flushed, as in training.
np.finfo(np.float32), np.finfo(np.float64)


@pytest.fixture(scope="session")
def config() -> MMInterleavedConfig:
    tiny = preset("tiny")
    llm = replace(tiny.llm, hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    perceiver = replace(tiny.image_decoder.perceiver, encoder_hidden_size=64)
    return replace(tiny, llm=llm, image_decoder=replace(tiny.image_decoder, perceiver=perceiver))


@pytest.fixture(scope="session")
def processor(config: MMInterleavedConfig) -> Processor:
    return Processor(config, build_tokenizer(config))


@pytest.fixture
def model(config: MMInterleavedConfig) -> MMInterleaved:
    torch.manual_seed(0)
    built = MMInterleaved(config)
    initialise(built)
    return built


@pytest.fixture(scope="session")
def storybook_packages() -> Path:
    """Both packages, fetched at the first run."""
    packages.fetch()
    return packages.DEFAULT_FOLDER
