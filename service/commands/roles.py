"""`mmi gateway`, `mmi text-worker`, `mmi image-worker`: one role, configured by MMI_ variables."""

from __future__ import annotations

import argparse
import logging
import sys

from service import log
from service.config import GatewaySettings, ImageWorkerSettings, TextWorkerSettings
from service.errors import StartupError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the settings are environment variables."""


def run(args: argparse.Namespace) -> int:
    """Run the role that the command names until a signal."""
    # Settings come before the imports of a role, which can take seconds: a bad value fails at once.
    if args.command == "gateway":
        return _gateway(GatewaySettings())
    if args.command == "text-worker":
        text_settings = TextWorkerSettings()
        from service.workers.text import worker as text_worker

        return text_worker.main(text_settings)
    image_settings = ImageWorkerSettings()
    from service.workers.image import worker as image_worker

    return image_worker.main(image_settings)


def _gateway(settings: GatewaySettings) -> int:
    from service.gateway import server

    log.configure("gateway", settings.log_level)
    # This library logs a warning for every malformed byte that a client sends.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        return server.run(settings)
    except StartupError as error:
        sys.stderr.write(f"mmi gateway: {error}\n")
        return 2
