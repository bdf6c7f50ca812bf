"""Fetching images by URL, without giving access to the network behind the gateway.

Only https, only allowed hosts (none by default), only public addresses. The address is resolved
and checked here, and the connection goes to exactly that address, so that a second DNS answer
changes nothing. A redirect is followed only to the same host and is checked in the same way. Size
and time are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import certifi
import httpx

from service.gateway.images.cleaning import ImageLimits
from service.gateway.problems import Problem

_MAX_REDIRECTS = 3
_SECONDS = 10.0


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if inner or ip in ipaddress.ip_network("64:ff9b::/96"):
            return False
    return ip.is_global and not ip.is_multicast


class UrlFetcher:
    """Fetches images from allowed hosts."""

    def __init__(
        self, allowed_hosts: tuple[str, ...], limits: ImageLimits, authorities: Path | None = None
    ) -> None:
        """`authorities` is a PEM file of the CAs to trust in place of the public ones."""
        self._allowed = frozenset(host.lower() for host in allowed_hosts)
        self._limits = limits
        self._tls: ssl.SSLContext | bool = False
        if self._allowed:
            self._tls = ssl.create_default_context(cafile=authorities or certifi.where())

    async def fetch(self, url: str, param: str) -> bytes:
        """The bytes at `url`.

        Raises:
            Problem: URLs are off, the address is not allowed, or the fetch failed.
        """
        if not self._allowed:
            raise Problem("urls_disabled", param=param)
        first_host = self._checked_host(url, param)
        try:
            async with asyncio.timeout(_SECONDS):
                for _ in range(_MAX_REDIRECTS + 1):
                    if self._checked_host(url, param) != first_host:
                        raise Problem("url_not_allowed", param=param)
                    data, url = await self._hop(url, param)
                    if data is not None:
                        return data
        except (TimeoutError, httpx.HTTPError, OSError):
            raise Problem("url_failed", param=param) from None
        raise Problem("url_failed", param=param)

    def _checked_host(self, url: str, param: str) -> str:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Problem("url_not_allowed", param=param) from None
        host = (parts.hostname or "").lower().rstrip(".")
        plain = not parts.username and not parts.password and port in (None, 443)
        if parts.scheme != "https" or not plain or host not in self._allowed:
            raise Problem("url_not_allowed", param=param)
        return host

    async def _hop(self, url: str, param: str) -> tuple[bytes | None, str]:
        """One request: the body, or None and the address to follow."""
        host = self._checked_host(url, param)
        address = await self._resolve(host, param)
        literal = f"[{address}]" if ":" in address else address
        target = httpx.URL(url).copy_with(host=literal)
        async with (
            httpx.AsyncClient(verify=self._tls, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "GET",
                target,
                # No compression: the size limit counts bytes as they arrive.
                headers={"Host": host, "Accept": "image/*", "Accept-Encoding": "identity"},
                extensions={"sni_hostname": host},
            ) as response,
        ):
            if response.is_redirect:
                return None, urljoin(url, response.headers.get("location", ""))
            if response.status_code != 200:
                raise Problem("url_failed", param=param)
            return await self._read(response, param), url

    async def _resolve(self, host: str, param: str) -> str:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
        addresses = [str(info[4][0]) for info in found]
        if not addresses or not all(is_public(address) for address in addresses):
            raise Problem("url_not_allowed", param=param)
        return addresses[0]

    async def _read(self, response: httpx.Response, param: str) -> bytes:
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > self._limits.image_bytes:
                raise Problem("image_bytes", param=param, limit=self._limits.image_bytes)
        return bytes(data)
