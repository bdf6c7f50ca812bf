"""`mmi text-worker`: a text worker alone. Its settings are environment variables (MMI_...)."""

from __future__ import annotations

import argparse
import asyncio

from service import log
from service.checkpoint import find_checkpoint
from service.config import TextWorkerSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments: none."""


def run(args: argparse.Namespace) -> int:
    """Work until a signal."""
    # Late, so that a bad setting is told before libraries are loaded for seconds.
    settings = TextWorkerSettings()
    log.configure("text-worker", settings.log_level)
    from model.engine.text import VllmTextEngine
    from model.engine.text_options import TextEngineOptions
    from service.workers.text import serve

    options = TextEngineOptions(
        checkpoint=find_checkpoint(settings.checkpoint, settings.cache_dir),
        cache_dir=settings.cache_dir,
        max_num_seqs=settings.concurrency,
        kv_cache_bytes=int(settings.kv_cache_gib * 2**30),
        max_model_len=settings.max_model_len,
    )
    return asyncio.run(serve(settings, VllmTextEngine(options)))
