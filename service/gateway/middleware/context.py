"""Around every request: its id, the Host check, and the security headers of the answer.

Pure ASGI, so that streams pass through unbuffered.
"""

from __future__ import annotations

import json
import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.gateway.problems import Problem, document
from service.telemetry.log import request_id_var

_REQUEST_ID = re.compile(r"^[A-Za-z0-9_.:-]{1,64}$")
PROBES = frozenset({"/livez", "/readyz", "/startupz"})
# Always allowed: a forwarded port is reached by them, and no other site's page can send them.
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class RequestContext:
    """Gives each request an id and each answer the security headers."""

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...]) -> None:
        self.app = app
        self.allowed_hosts = (*_LOCAL_NAMES, *allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        correlation_id = headers.get("x-request-id", "")
        valid = _REQUEST_ID.match(correlation_id)
        if not valid:
            correlation_id = secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = correlation_id
        token = request_id_var.set(correlation_id)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
                answer.setdefault("X-Request-ID", correlation_id)
            await send(message)

        try:
            if not self._host_allowed(headers.get("host", ""), scope["path"]):
                await _refuse(Problem("host_not_allowed", param="Host"), correlation_id, send)
            else:
                await self.app(scope, receive, send_with_headers)
        finally:
            request_id_var.reset(token)

    def _host_allowed(self, host: str, path: str) -> bool:
        """Probes use addresses; all other requests must name an allowed host."""
        if "*" in self.allowed_hosts or path in PROBES:
            return True
        name = host.rsplit("]", 1)[0] + "]" if host.startswith("[") else host.partition(":")[0]
        name = name.lower().rstrip(".")
        return any(
            name == allowed or (allowed.startswith("*.") and name.endswith(allowed[1:]))
            for allowed in self.allowed_hosts
        )


async def _refuse(problem: Problem, request_id: str, send: Send) -> None:
    body = json.dumps(document(problem, request_id)).encode()
    names = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "X-Request-ID": request_id,
        **SECURITY_HEADERS,
    }
    headers = [(name.lower().encode(), value.encode()) for name, value in names.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
