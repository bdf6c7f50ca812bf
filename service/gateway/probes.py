"""Probes on the public port. Metrics are on the health port (`service.gateway.server`)."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

from service.gateway.deps import Gateway
from service.telemetry.metrics import READY

router = APIRouter(include_in_schema=False)


@router.get("/livez")
async def livez() -> JSONResponse:
    """The process answers. Redis is not checked: restarting the gateway would not bring it back."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
@router.get("/startupz")
async def readyz(http: Request) -> JSONResponse:
    """Whether requests should be sent here: see `is_ready`."""
    ready = await is_ready(http.app)
    return JSONResponse({"status": "ok" if ready else "unavailable"}, 200 if ready else 503)


async def is_ready(app: FastAPI) -> bool:
    """Whether Redis answers and the process is not stopping."""
    gateway: Gateway = app.state.gateway
    stopping = gateway.relay.stopping.is_set() or app.state.draining
    ready = not stopping and await gateway.broker.ping(timeout_s=1.0)
    READY.set(int(ready))
    return ready
