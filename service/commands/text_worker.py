"""`mmi text-worker`: a text worker alone. Its settings are environment variables (MMI_...)."""

from __future__ import annotations

import argparse

from service.config import TextWorkerSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments: none."""


def run(args: argparse.Namespace) -> int:
    """Work until a signal."""
    # Late, so that a bad setting is told before libraries are loaded for seconds.
    settings = TextWorkerSettings()
    from service.workers.text import worker

    return worker.main(settings)
