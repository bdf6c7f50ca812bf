"""Two self-contained pages: a playground at `/`, and the API reference at `/docs`."""

from __future__ import annotations

import secrets
from importlib import resources

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)

_NONCE = "{{nonce}}"


def _page(name: str) -> Response:
    """A page of this package; the Content-Security-Policy allows only its own scripts to run."""
    text = (resources.files("service.gateway.pages") / name).read_text(encoding="utf-8")
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return HTMLResponse(text.replace(_NONCE, nonce), headers={"Content-Security-Policy": policy})


@router.get("/")
async def playground() -> Response:
    """Compose a request and watch the answer."""
    return _page("playground.html")


@router.get("/docs")
async def reference() -> Response:
    """The API, from its OpenAPI document."""
    return _page("docs.html")


@router.get("/favicon.ico")
async def icon() -> Response:
    """No icon."""
    return Response(status_code=204)
