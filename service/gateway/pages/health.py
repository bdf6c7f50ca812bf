"""Probes and metrics."""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.errors import BrokerError
from service.gateway.deps import Credentials, GatewayDep
from service.metrics import READY

router = APIRouter(include_in_schema=False)


@router.get("/livez")
async def livez() -> JSONResponse:
    """The process answers. Redis is not checked: restarting the gateway would not bring it back."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
@router.get("/startupz")
async def readyz(http: Request, gateway: GatewayDep) -> JSONResponse:
    """Whether requests should be sent here: Redis answers and the process is not stopping."""
    stopping = gateway.relay.stopping.is_set() or http.app.state.draining
    ready = not stopping and await gateway.broker.ping(timeout_s=1.0)
    READY.set(int(ready))
    return JSONResponse({"status": "ok" if ready else "unavailable"}, 200 if ready else 503)


@router.get("/metrics")
async def metrics(gateway: GatewayDep, credentials: Credentials) -> Response:
    """Metrics of this process and of the queue, for Prometheus."""
    if not gateway.settings.open_metrics:
        key = credentials.credentials if credentials else None
        gateway.authenticator.identify(key).require("metrics")
    # Without Redis, the metrics of the process itself are still useful.
    with contextlib.suppress(BrokerError, TimeoutError):
        async with asyncio.timeout(1.0):
            await gateway.queue.load()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
