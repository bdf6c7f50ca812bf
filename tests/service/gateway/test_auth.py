"""Who may do what, and what answers give away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.config import GatewaySettings
from service.errors import AuthenticationFailed
from service.gateway.auth import Authenticator, KeyFileError, new_key
from service.gateway.deps import key_file_of
from tests.service.gateway.conftest import StartGateway

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
        ready = await client.http.get("/readyz")

    assert (none.status_code, wrong.status_code, bob.status_code) == (401, 401, 403)
    assert none.headers["www-authenticate"] == "Bearer"
    assert (alice.status_code, ready.status_code) == (200, 200)


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
    old = write_keys(key_file, alice=["read"])["alice"]["Authorization"].removeprefix("Bearer ")
    authenticator = Authenticator(key_file)
    assert authenticator.identify(old).owner == "alice"

    new = write_keys(key_file, alice=["read"])["alice"]["Authorization"].removeprefix("Bearer ")

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
        Authenticator(key_file).identify(key)


def test_no_key_file_stops_startup(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        key_file_of(GatewaySettings(auth="keys", api_keys_file=None))
    with pytest.raises(KeyFileError):
        Authenticator(tmp_path / "missing.json")
