"""The gateway under uvicorn, with a graceful stop.

On SIGTERM the process reports at once that it is not ready and accepts no new connections. Open
streams continue for the grace period, then end with a hint to resume on another gateway. Their
requests are not cancelled.

Probes and metrics have a port of their own, which need not be reachable from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from service import loop
from service.broker.redis.server import require_suitable_server
from service.config import GatewaySettings
from service.errors import BrokerError, ConnectionLost, StartupError
from service.gateway.app import create_app
from service.gateway.deps import Gateway
from service.gateway.probes import is_ready
from service.telemetry import tracing
from service.telemetry.health import HealthServer

logger = logging.getLogger(__name__)

_FIRST_CHECK_S = 1.0


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
    """Serve until a signal; returns the exit status.

    Raises:
        StartupError: a port cannot be used, or the settings contradict each other.
    """
    tracing.configure("gateway", settings.otlp_endpoint)
    try:
        return loop.run(_serve(settings, listener))
    finally:
        tracing.stop()


async def _serve(settings: GatewaySettings, listener: socket.socket | None) -> int:
    app = create_app(settings)
    gateway: Gateway = app.state.gateway
    server = GatewayServer(app, settings)
    try:
        await require_suitable_server(gateway.broker, retry_s=_FIRST_CHECK_S)
    except ConnectionLost:
        # Not ready until it can be reached; workers wait for it, and check it then.
        logger.warning("Redis cannot be reached, so its version is not checked")

    async def ready() -> bool:
        return server.started and await is_ready(app)

    async def refresh() -> None:
        # Without Redis, the metrics of the process itself are still useful.
        with contextlib.suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(1.0):
                await gateway.queue.load()

    health = HealthServer(
        settings.health_host, settings.health_port, live=lambda: True, ready=ready, refresh=refresh
    )
    try:
        await health.start()
    except OSError as error:
        address = f"{settings.health_host}:{settings.health_port}"
        raise StartupError(
            f"cannot listen on {address} for probes and metrics ({error.strerror}). "
            "MMI_HEALTH_HOST and MMI_HEALTH_PORT choose another address."
        ) from error
    logger.info("health on port %d", health.port)
    try:
        await server.serve(sockets=[listener] if listener else None)
    finally:
        await health.stop()
    return 0 if server.started else 1
