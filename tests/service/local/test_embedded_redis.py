"""The private Redis, and roles as processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from service.local.embedded_redis import EmbeddedRedis, RedisUnavailable, find_server
from service.local.processes import Role, RoleFailed


def test_it_is_durable_and_behind_a_password(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "data", tmp_path / "log")
    for expected in (None, b"1"):
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("x") == expected
            client.set("x", 1)
            assert int(str(client.info()["redis_version"]).split(".")[0]) >= 7
        with (
            redis.Redis(port=server.port) as stranger,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            stranger.ping()
        server.stop()
        assert not server.alive


def test_old_servers_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "redis-server"
    fake.write_text("#!/bin/sh\necho 'Redis server v=6.2.7 sha=0'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() != fake

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RedisUnavailable):
        find_server()


def test_a_role_that_ends_is_told_with_its_log(tmp_path: Path) -> None:
    role = Role("gateway", 1, {"MMI_PORT": "not a number"}, tmp_path / "log")
    role.start()
    role.wait(120)
    with pytest.raises(RoleFailed, match="port"):
        role.check()
