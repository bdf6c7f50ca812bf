"""Who may do what, and what answers give away."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from service.commands import keys as keys_command
from service.config import GatewaySettings
from service.errors import AuthenticationFailed
from service.gateway.auth import Authenticator, KeyFileError, hash_key, new_key
from service.gateway.deps import key_file_of
from service.gateway.intake.fetch import UrlFetcher, is_public
from service.gateway.intake.limits import Limits
from service.gateway.problems import Problem
from tests.service.gateway.conftest import Client, StartGateway

TEXT = [{"type": "text", "text": "A cat."}]


def write_keys(path: Path, **owners: list[str]) -> dict[str, dict[str, str]]:
    """A key file; returns the headers of each owner."""
    entries, headers = [], {}
    for owner, scopes in owners.items():
        key, digest = new_key()
        entries.append({"owner": owner, "sha256": digest, "scopes": scopes})
        headers[owner] = {"Authorization": f"Bearer {key}"}
    path.write_text(json.dumps({"keys": entries}))
    return headers


async def test_keys_and_scopes(start_gateway: StartGateway, key_file: Path) -> None:
    headers = write_keys(key_file, alice=["generate", "read"], bob=["read"])
    async with start_gateway(auth="keys", api_keys_file=key_file) as client:
        none = await client.post({"content": TEXT})
        wrong = await client.post({"content": TEXT}, headers={"Authorization": "Bearer mmi_x"})
        bob = await client.post({"content": TEXT}, headers=headers["bob"])
        alice = await client.post({"content": TEXT}, headers=headers["alice"])
        metrics = await client.http.get("/metrics", headers=headers["alice"])
        ready = await client.http.get("/readyz")

    assert (none.status_code, wrong.status_code, bob.status_code) == (401, 401, 403)
    assert none.headers["www-authenticate"] == "Bearer"
    assert (alice.status_code, metrics.status_code, ready.status_code) == (200, 403, 200)


async def test_requests_and_images_are_their_owners(
    start_gateway: StartGateway, key_file: Path
) -> None:
    headers = write_keys(key_file, alice=["generate", "read"], bob=["generate", "read"])
    async with start_gateway(auth="keys", api_keys_file=key_file) as client:
        answer = (await client.post({"content": TEXT}, headers=headers["alice"])).json()
        sha256 = answer["content"][1]["sha256"]
        paths = (
            f"/v1/requests/{answer['id']}",
            f"/v1/requests/{answer['id']}/events",
            f"/v1/images/{sha256}",
        )
        for path in paths:
            assert (await client.http.get(path, headers=headers["alice"])).status_code == 200
            assert (await client.http.get(path, headers=headers["bob"])).status_code == 404
        stolen = {"content": [{"type": "image", "sha256": sha256}]}
        assert (await client.post(stolen, headers=headers["bob"])).status_code == 404
        deleted = await client.http.delete(paths[0], headers=headers["bob"])
        assert deleted.status_code == 404


async def test_limits_of_a_key(start_gateway: StartGateway, key_file: Path) -> None:
    headers = write_keys(key_file, alice=["generate", "read"])
    document = json.loads(key_file.read_text())
    document["keys"][0]["concurrent_requests"] = 1
    key_file.write_text(json.dumps(document))
    async with start_gateway(auth="keys", api_keys_file=key_file) as client:
        client.workers.text.hold.clear()
        first = await client.post({"content": TEXT, "background": True}, headers=headers["alice"])
        second = await client.post({"content": TEXT}, headers=headers["alice"])

    assert first.status_code == 202
    assert second.status_code == 429
    assert second.json()["error"]["code"] == "too_many_concurrent"


def test_keys_rotate_without_a_restart(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.gateway.auth._CHECK_SECONDS", 0.0)
    old = write_keys(key_file, alice=["read"])["alice"]["Authorization"]
    authenticator = Authenticator(key_file)
    assert authenticator.identify(old).owner == "alice"

    new = write_keys(key_file, alice=["read"])["alice"]["Authorization"]

    assert authenticator.identify(new).owner == "alice"
    with pytest.raises(AuthenticationFailed):
        authenticator.identify(old)
    key_file.write_text("{ broken")
    assert authenticator.identify(new).owner == "alice"


def test_expired_keys_are_refused(key_file: Path) -> None:
    key, digest = new_key()
    entry = {"owner": "alice", "sha256": digest, "expires": "2020-01-01"}
    key_file.write_text(json.dumps({"keys": [entry]}))

    with pytest.raises(AuthenticationFailed):
        Authenticator(key_file).identify(f"Bearer {key}")


def test_no_key_file_stops_startup(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        key_file_of(GatewaySettings(auth="keys", api_keys_file=None))
    with pytest.raises(KeyFileError):
        Authenticator(tmp_path / "missing.json")


def test_the_command_keeps_only_the_hash(
    key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    keys_command.add_arguments(parser)
    assert keys_command.run(parser.parse_args([str(key_file), "--owner", "alice"])) == 0
    assert keys_command.run(parser.parse_args([str(key_file), "--owner", "bob"])) == 0

    first, second = capsys.readouterr().out.split()
    assert first not in key_file.read_text() and hash_key(second) in key_file.read_text()
    assert Authenticator(key_file).identify(f"Bearer {first}").owner == "alice"
    assert key_file.stat().st_mode & 0o077 == 0


async def test_headers_of_all_answers(client: Client) -> None:
    for path in ("/livez", "/nothing", "/", "/docs", "/openapi.json"):
        response = await client.http.get(path)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers
        assert "server" not in response.headers or response.headers["server"] == "uvicorn"


async def test_pages_load_nothing_from_outside(client: Client) -> None:
    for path in ("/", "/docs"):
        text = (await client.http.get(path)).text
        assert "{{nonce}}" not in text
        assert "http://" not in text and "https://" not in text and 'src="' not in text


async def test_foreign_hosts_are_refused(client: Client) -> None:
    foreign = await client.http.get("/v1/models", headers={"Host": "evil.example"})
    probe = await client.http.get("/livez", headers={"Host": "10.0.0.7:8000"})
    own = await client.http.get("/v1/models", headers={"Host": "LOCALHOST:80"})

    assert foreign.status_code == 400
    assert foreign.json()["error"]["code"] == "host_not_allowed"
    assert (probe.status_code, own.status_code) == (200, 200)


async def test_cors_is_off_unless_configured(start_gateway: StartGateway) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with start_gateway(cors_origins=("https://app.example",)) as client:
        allowed = await client.http.options("/generate", headers=headers)
        other = await client.http.options("/generate", headers=headers | {"Origin": "https://x.y"})

    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in other.headers


async def test_cors_is_off_by_default(client: Client) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    preflight = await client.http.options("/generate", headers=headers)
    answer = await client.post({"content": TEXT}, headers={"Origin": "https://app.example"})

    assert preflight.status_code == 405 and answer.status_code == 200
    for response in (preflight, answer):
        assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_every_refusal_for_now_says_when_to_come_back(
    start_gateway: StartGateway, key_file: Path
) -> None:
    scopes = ["generate", "read"]
    headers = write_keys(key_file, busy=scopes, fast=scopes, large=scopes)
    document = json.loads(key_file.read_text())
    document["keys"][0]["concurrent_requests"] = 1
    document["keys"][1]["requests_per_minute"] = 1
    key_file.write_text(json.dumps(document))
    wanted = {"content": TEXT, "stream": True}
    refused = {}
    options = {"auth": "keys", "api_keys_file": key_file, "max_text_work": 5_000}
    async with start_gateway(**options) as client:
        client.workers.text.hold.clear()
        background = {"content": TEXT, "background": True}
        for owner, times in (("busy", 1), ("fast", 10)):
            for _ in range(times):
                await client.post(background, headers=headers[owner])
        refused["too_many_concurrent"] = await client.post(wanted, headers=headers["busy"])
        refused["rate_limited"] = await client.post(wanted, headers=headers["fast"])
        wanted["max_tokens"] = 3_000
        refused["queue_full"] = await client.post(wanted, headers=headers["large"])

    for code, response in refused.items():
        assert response.status_code == 429, code
        assert response.json()["error"]["code"] == code
        assert response.json()["error"]["retryable"] is True
        assert int(response.headers["retry-after"]) >= 1


async def test_a_bug_tells_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: object) -> None:
        raise RuntimeError("secret path /etc/shadow")

    monkeypatch.setattr(client.gateway.admissions, "accept", broken)
    with caplog.at_level(logging.CRITICAL):
        response = await client.post({"content": [{"type": "text", "text": "my prompt"}]})

    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["code"] == "internal_error"


async def test_redis_away_is_503(start_gateway: StartGateway) -> None:
    async with start_gateway() as client:

        async def away(*args: object, **options: object) -> None:
            from service.errors import ConnectionLost

            raise ConnectionLost

        client.gateway.broker.script = away  # type: ignore[method-assign, assignment]
        response = await client.post({"content": TEXT})

    assert response.status_code == 503
    assert response.json()["error"]["retryable"] is True


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
        await UrlFetcher(("cdn.example",), Limits()).fetch(url, "content[0].url")
    assert raised.value.code == code
