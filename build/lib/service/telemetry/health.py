"""A role's health port: `/livez`, `/startupz`, `/readyz`, `/metrics`, without authentication."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class _Server(uvicorn.Server):
    """A server that leaves signals to the role."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HealthServer:
    """Serves probes and metrics of this process.

    Args:
        host: address to listen on.
        port: its port; 0 takes a free one.
        live: whether the process needs no restart.
        ready: whether it takes work.
        refresh: brings metrics up to date that are not kept so, before they are read.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        live: Callable[[], bool],
        ready: Callable[[], Awaitable[bool]],
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._address = host, port
        self._live, self._ready, self._refresh = live, ready, refresh
        app = Starlette(
            routes=[
                Route("/livez", self._livez),
                Route("/startupz", self._readyz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
            ]
        )
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None
        self.port = port

    async def start(self) -> None:
        """Listen, on a free port if the port is 0; `port` is that port afterwards.

        Raises:
            OSError: the address cannot be used, for example because the port is taken.
        """
        listener = socket.create_server(self._address)
        self.port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task:
            await self._task

    async def _livez(self, request: Request) -> Response:
        live = self._live()
        return JSONResponse({"status": "alive" if live else "stalled"}, 200 if live else 503)

    async def _readyz(self, request: Request) -> Response:
        ready = await self._ready()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        if self._refresh is not None:
            await self._refresh()
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
