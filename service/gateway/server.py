"""The gateway under uvicorn, with a graceful stop.

On SIGTERM the process reports at once that it is not ready and accepts no new connections. Open
streams continue for the grace period, then end with a hint to resume on another gateway. Their
requests are not cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from service import loop
from service.config import GatewaySettings
from service.gateway.app import create_app


class GatewayServer(uvicorn.Server):
    """A uvicorn server that informs the application before it stops."""

    def __init__(self, app: FastAPI, settings: GatewaySettings) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(settings.drain_s) + 5,
            h11_max_incomplete_event_size=64 * 1024,
            limit_concurrency=None,
        )
        super().__init__(config)
        self._app, self._drain_s = app, settings.drain_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM begin the drain; a second signal ends it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._begin_drain)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _begin_drain(self) -> None:
        if self._app.state.draining:
            self._end_streams()
            return
        self._app.state.draining = True
        asyncio.get_running_loop().call_later(self._drain_s, self._end_streams)
        self.should_exit = True

    def _end_streams(self) -> None:
        self._app.state.gateway.relay.stopping.set()


def run(settings: GatewaySettings, listener: socket.socket | None = None) -> int:
    """Serve until a signal; returns the exit status."""
    server = GatewayServer(create_app(settings), settings)
    loop.run(server.serve(sockets=[listener] if listener else None))
    return 0 if server.started else 1
