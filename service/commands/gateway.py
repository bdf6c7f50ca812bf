"""`mmi gateway`: the gateway alone. All of its settings are environment variables (MMI_...)."""

from __future__ import annotations

import argparse
import logging
import sys

from service import log
from service.config import GatewaySettings
from service.errors import StartupError
from service.gateway import server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments: none."""


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    settings = GatewaySettings()
    log.configure("gateway", settings.log_level)
    # This library logs a warning for every malformed byte that a client sends.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        return server.run(settings)
    except StartupError as error:
        sys.stderr.write(f"mmi gateway: {error}\n")
        return 2
