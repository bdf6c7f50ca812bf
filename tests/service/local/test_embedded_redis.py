"""The embedded Redis: started, stopped, and its data kept apart by server and version."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from service.local.embedded_redis import EmbeddedRedis, RedisUnavailable, find_server


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


def server_of(directory: Path, version: str) -> Path:
    """A `redis-server` that says it is of `version`."""
    program = directory / version / "redis-server"
    program.parent.mkdir()
    version_line = f'[ "$1" = --version ] && echo "Redis server v={version} sha=0" && exit\n'
    program.write_text(f'#!/bin/sh\n{version_line}exec {find_server()} "$@"\n')
    program.chmod(0o755)
    return program


def test_each_server_and_version_has_data_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {version: server_of(tmp_path, version) for version in ("7.4.1", "8.2.1", "8.2.3")}
    server = EmbeddedRedis(tmp_path / "data", tmp_path / "log")

    def value_on(version: str) -> bytes | None:
        monkeypatch.setenv("PATH", str(programs[version].parent), prepend=":")
        server.start()
        with redis.Redis.from_url(server.url) as client:
            found = client.get("version")
            client.set("version", version)
        server.stop()
        return found

    assert value_on("7.4.1") is None and not server.notice
    # A newer server would refuse what an older or another one has written.
    assert value_on("8.2.1") is None
    assert "redis-7.4" in server.notice and "starts empty" in server.notice
    assert "\n" not in server.notice
    assert value_on("8.2.3") == b"8.2.1" and not server.notice
    assert value_on("7.4.1") == b"7.4.1" and not server.notice


def test_files_of_another_server_do_not_stop_it(tmp_path: Path) -> None:
    # As versions before this layout left them, here in a format that no server reads.
    old = tmp_path / "appendonlydir"
    old.mkdir()
    (old / "appendonly.aof.1.base.rdb").write_bytes(b"REDIS9999\xff")
    (old / "appendonly.aof.manifest").write_text("file appendonly.aof.1.base.rdb seq 1 type b\n")
    server = EmbeddedRedis(tmp_path, tmp_path / "log")
    server.start()
    assert server.ready() and str(tmp_path) in server.notice
    server.stop()
    assert (old / "appendonly.aof.1.base.rdb").exists()


def test_a_server_that_ends_is_reported(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path, tmp_path / "log")
    server.start()
    server.check()
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    with pytest.raises(RedisUnavailable, match="status -9"):
        server.check()
    assert not server.ready()
    server.start()
    assert server.ready()
    server.stop()
