"""Images by https URL: a real server with a certificate, whose names resolve as each test says.

Only two things are not real: what names resolve to, and that the public address of the tests leads
to a port of this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.gateway.images import fetch
from service.gateway.images.cleaning import ImageLimits
from service.gateway.images.fetch import UrlFetcher, is_public
from service.gateway.problems import Problem
from tests.service.certificates import Authority
from tests.service.gateway.conftest import StartGateway

PUBLIC = "93.184.215.14"


class Site:
    """What the server says at each path, whom names stand for, and what it was asked."""

    def __init__(self, authorities: Path) -> None:
        self.authorities = authorities
        self.pages: dict[str, bytes] = {}
        self.addresses: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.stall = asyncio.Event()

    def redirect(self, path: str, to: str) -> None:
        self.pages[path] = f"HTTP/1.1 302 Found\r\nLocation: {to}\r\n\r\n".encode()

    def page(self, path: str, body: bytes, status: str = "200 OK") -> None:
        self.pages[path] = f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode() + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        host = next(line[6:] for line in head.splitlines() if line.lower().startswith("host: "))
        self.requests.append((host, path))
        try:
            writer.write(self.pages.get(path, b"HTTP/1.1 404 Not Found\r\n\r\n"))
            await writer.drain()
            if path == "/stalls":
                await self.stall.wait()
        finally:
            writer.close()

    def fetcher(self, *hosts: str, **limits: int) -> UrlFetcher:
        return UrlFetcher(hosts or ("cdn.example",), ImageLimits(**limits), self.authorities)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    authority = Authority(tmp_path)
    site = Site(authority.path)
    context = authority.server_context("cdn.example")
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    connect = anyio.connect_tcp

    async def resolve(self: object, host: str, *args: object, **options: object) -> list[Any]:
        addresses = site.addresses.get(host, [PUBLIC])
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [(2, 1, 6, "", (address, 443))]

    async def to_the_server(remote_host: str, remote_port: int, **options: Any) -> Any:
        if (remote_host, remote_port) == (PUBLIC, 443):
            remote_host, remote_port = "127.0.0.1", port
        return await connect(remote_host, remote_port, **options)

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", resolve)
    monkeypatch.setattr("anyio.connect_tcp", to_the_server)
    yield site
    site.stall.set()
    server.close()


async def refusal(fetcher: UrlFetcher, url: str) -> str:
    with pytest.raises(Problem) as raised:
        await fetcher.fetch(url, "content[0].url")
    assert raised.value.param == "content[0].url"
    return raised.value.code


async def test_an_image_is_fetched_and_used(
    site: Site, start_gateway: StartGateway, picture: bytes
) -> None:
    site.page("/cat.png", picture)
    site.page("/notes.txt", b"no picture at all")
    options = {"image_url_hosts": ("cdn.example",), "image_url_authorities": site.authorities}
    async with start_gateway(**options) as client:

        async def ask(url: str) -> httpx.Response:
            return await client.post({"content": [{"type": "image", "url": url}]})

        answer = await ask("https://cdn.example/cat.png")
        text = await ask("https://cdn.example/notes.txt")
        stored = client.workers.text.contexts[0][0].image

    assert answer.status_code == 200, answer.text
    assert stored.size == (40, 30)
    assert site.requests[0] == ("cdn.example", "/cat.png")
    assert (text.status_code, text.json()["error"]["code"]) == (422, "image_format")


async def test_redirects_stay_on_their_host(site: Site, picture: bytes) -> None:
    site.page("/cat.png", picture)
    site.redirect("/moved", "/cat.png")
    site.redirect("/circle", "/circle")
    site.redirect("/away", "https://other.example/cat.png")
    site.redirect("/plain", "http://cdn.example/cat.png")
    site.redirect("/inside", "https://127.0.0.1/cat.png")
    fetcher = site.fetcher("cdn.example", "other.example")

    assert await fetcher.fetch("https://cdn.example/moved", "x") == picture
    assert await refusal(fetcher, "https://cdn.example/circle") == "url_failed"
    for path in ("away", "plain", "inside"):
        assert await refusal(fetcher, f"https://cdn.example/{path}") == "url_not_allowed"
    assert ("other.example", "/cat.png") not in site.requests


async def test_private_addresses_are_refused_at_every_hop(site: Site, picture: bytes) -> None:
    site.page("/cat.png", picture)
    site.redirect("/moved", "/cat.png")
    site.addresses = {"cdn.example": [PUBLIC, "10.0.0.5"]}

    # The name leads inside by the time of the second hop.
    assert await refusal(site.fetcher(), "https://cdn.example/moved") == "url_not_allowed"
    assert site.requests == [("cdn.example", "/moved")]
    for address in ("127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1"):
        site.addresses = {"cdn.example": [address]}
        assert await refusal(site.fetcher(), "https://cdn.example/cat.png") == "url_not_allowed"


async def test_size_and_time_are_capped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_SECONDS", 0.3)
    site.page("/large", bytes(5000))
    site.page("/stalls", b"slow")
    site.page("/broken", b"x", "500 Internal Server Error")

    assert (
        await refusal(site.fetcher(image_bytes=4999), "https://cdn.example/large") == "image_bytes"
    )
    assert len(await site.fetcher(image_bytes=5000).fetch("https://cdn.example/large", "x")) == 5000
    for path in ("stalls", "broken", "missing"):
        assert await refusal(site.fetcher(), f"https://cdn.example/{path}") == "url_failed"


async def test_a_certificate_must_be_of_the_host_and_of_a_known_authority(
    site: Site, picture: bytes
) -> None:
    site.page("/cat.png", picture)

    assert await refusal(site.fetcher("other.example"), "https://other.example/cat.png") == (
        "url_failed"
    )
    public = UrlFetcher(("cdn.example",), ImageLimits())
    assert await refusal(public, "https://cdn.example/cat.png") == "url_failed"
    assert not site.requests


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "::",
    ],
)  # fmt: skip
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are_public() -> None:
    assert is_public("1.1.1.1") and is_public("2606:4700:4700::1111")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://cdn.example/a.png", "url_not_allowed"),
        ("https://other.example/a.png", "url_not_allowed"),
        ("https://cdn.example:8443/a.png", "url_not_allowed"),
        ("https://user@cdn.example/a.png", "url_not_allowed"),
        ("https://cdn.example@other.example/", "url_not_allowed"),
        ("file:///etc/passwd", "url_not_allowed"),
        ("https://[::1/a.png", "url_not_allowed"),
        ("https://cdn.example/a.png", "url_not_allowed"),
    ],
)
async def test_urls_that_are_refused(url: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def private(self: object, *args: object, **options: object) -> list[object]:
        return [(2, 1, 6, "", ("10.0.0.1", 443))]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", private)
    with pytest.raises(Problem) as raised:
        await UrlFetcher(("cdn.example",), ImageLimits()).fetch(url, "content[0].url")
    assert raised.value.code == code
