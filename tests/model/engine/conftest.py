"""One seeded checkpoint and one engine for all tests of a module: starting vLLM takes long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from model.checkpoint import seeded
from model.engine.text.engine import VllmTextEngine
from model.engine.text.options import TextEngineOptions
from tests.model.engine.served import Reference

# Everything that can go wrong is provoked in one engine: chunks that would cut through images,
# and a cache that is too small for the requests of a batch.
NARROW = {"max_num_seqs": 32, "max_num_batched_tokens": 80}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded.create("tiny", tmp_path_factory.mktemp("seeded") / "tiny")


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VllmTextEngine]:
    engine = VllmTextEngine(
        TextEngineOptions(
            checkpoint,
            cache_dir=tmp_path_factory.mktemp("cache"),
            kv_cache_bytes=48 << 20,
            **NARROW,
            vllm={"logprobs_mode": "raw_logits", "max_logprobs": -1},
        )
    )
    await engine.start()
    yield engine
    await engine.stop()
