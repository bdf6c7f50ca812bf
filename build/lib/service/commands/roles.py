"""`mmi gateway`, `mmi text-worker`, `mmi image-worker`: one role, configured by MMI_ variables."""

from __future__ import annotations

import argparse
import logging
import sys

from service.config import GatewaySettings, ImageWorkerSettings, TextWorkerSettings
from service.errors import StartupError
from service.telemetry import log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the settings are environment variables."""


def run(args: argparse.Namespace) -> int:
    """Run the role that the command names until a signal; 2 if it cannot run as configured."""
    try:
        return _ROLES[args.command]()
    except StartupError as error:
        sys.stderr.write(f"mmi {args.command}: {error}\n")
        return 2


# Settings come before the imports of a role, which can take seconds: a bad value fails at once.


def _gateway() -> int:
    settings = GatewaySettings()
    from service.gateway import server

    log.configure("gateway", settings.log_level)
    # This library logs a warning for every malformed byte that a client sends.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    return server.run(settings)


def _text_worker() -> int:
    settings = TextWorkerSettings()
    from service.workers.text import worker

    return worker.main(settings)


def _image_worker() -> int:
    settings = ImageWorkerSettings()
    from service.workers.image import worker

    return worker.main(settings)


_ROLES = {"gateway": _gateway, "text-worker": _text_worker, "image-worker": _image_worker}
