"""Probes and metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.errors import BrokerError
from service.gateway.deps import caller_of, gateway_of
from service.metrics import READY

router = APIRouter(include_in_schema=False)


@router.get("/livez")
async def livez() -> JSONResponse:
    """The process answers; nothing else is looked at, so that a lost Redis restarts nothing."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
@router.get("/startupz")
async def readyz(http: Request) -> JSONResponse:
    """Whether requests should be sent here: Redis answers and the process is not stopping."""
    gateway = gateway_of(http)
    stopping = gateway.relay.stopping.is_set() or http.app.state.draining
    ready = not stopping and await gateway.broker.ping(timeout_s=1.0)
    READY.set(int(ready))
    return JSONResponse({"status": "ok" if ready else "unavailable"}, 200 if ready else 503)


@router.get("/metrics")
async def metrics(http: Request) -> Response:
    """Metrics of this process and of the queue, for Prometheus."""
    gateway = gateway_of(http)
    if not gateway.settings.open_metrics:
        caller_of(http, "metrics")
    try:
        async with asyncio.timeout(1.0):
            await gateway.queue.load()
    except (BrokerError, TimeoutError):
        # The process's own numbers are worth having while Redis is away.
        pass
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
