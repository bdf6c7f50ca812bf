"""The gateway as an ASGI application: `create_app(settings)`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from service.config import GatewaySettings
from service.errors import BlobNotFound, ConnectionLost, RequestNotFound, ServiceError
from service.gateway import probes
from service.gateway.api import native, openai
from service.gateway.api.openapi import install_openapi
from service.gateway.deps import Gateway
from service.gateway.middleware.access import AccessLog
from service.gateway.middleware.context import RequestContext
from service.gateway.pages import html
from service.gateway.problems import Problem, document, headers_of

logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 2.0


def create_app(settings: GatewaySettings) -> FastAPI:
    """The application; its lifespan opens and closes the connections.

    Raises:
        KeyFileError: keys are required (the default) and there is no readable key file.
    """
    gateway = Gateway.build(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await gateway.hub.start()
        sweeping = asyncio.create_task(_sweep(gateway))
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            await gateway.hub.stop()
            await gateway.broker.close()

    app = FastAPI(
        title="mm-interleaved-serving",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = gateway
    app.state.draining = False
    for router in (native.router, openai.router, probes.router, html.router):
        app.include_router(router)
    install_openapi(app)
    _add_error_handlers(app)
    if settings.cors_origins:
        _add_cors(app, settings.cors_origins)
    app.add_middleware(RequestContext, allowed_hosts=settings.allowed_hosts)
    routes = [route.path for route in app.routes if isinstance(route, APIRoute)]
    app.add_middleware(AccessLog, routes=routes)
    return app


def _add_cors(app: FastAPI, origins: tuple[str, ...]) -> None:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
        expose_headers=["Location", "X-Request-ID", "Retry-After"],
    )


async def _sweep(gateway: Gateway) -> None:
    """End requests whose deadline passes while no worker holds them."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await gateway.queue.create_groups()
            await gateway.queue.expire_due()
        except ConnectionLost:
            logger.warning("Redis cannot be reached")


def _answer(request: Request, error: ServiceError) -> JSONResponse:
    request_id = getattr(request.state, "request_id", None)
    return JSONResponse(document(error, request_id), error.status, headers_of(error))


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def on_service_error(request: Request, error: ServiceError) -> JSONResponse:
        if error.status >= 500:
            logger.warning("answering %s", type(error).__name__)
        return _answer(request, error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        answer = _answer(request, Problem(code) if code else ServiceError())
        for name, value in (error.headers or {}).items():
            answer.headers[name] = value
        return answer

    @app.exception_handler(RequestValidationError)
    async def on_invalid_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
        where, name = error.errors()[0]["loc"][:2]
        if where == "path":
            # A malformed id or hash cannot exist.
            return _answer(request, BlobNotFound() if name == "sha256" else RequestNotFound())
        return _answer(request, Problem("invalid_value", param=str(name), reason="is not valid"))

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        return _answer(request, ServiceError())
