from __future__ import annotations

import io
from pathlib import Path

import pytest
import redis
from rich.console import Console

from service.local import stack as stack_module
from service.local.processes import RoleFailed, RoleProcess
from service.local.stack import Stack


def stack_at(directory: Path, **options: object) -> Stack:
    return Stack(directory, Console(file=io.StringIO(), width=200), checkpoint=directory, **options)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("localhost", "http://localhost:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
    ],
)
def test_the_address_is_one_that_a_client_can_ask(tmp_path: Path, host: str, url: str) -> None:
    assert stack_at(tmp_path, host=host, port=80, redis_url="redis://x").url == url


def test_a_port_is_chosen_where_none_is_given(tmp_path: Path) -> None:
    assert stack_at(tmp_path, redis_url="redis://x").port > 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RoleProcess]:
    """The roles that a stack starts, which run on fake engines."""
    monkeypatch.setattr(RoleProcess, "module", "tests.service.local.fake_role")
    roles: list[RoleProcess] = []
    start = RoleProcess.start

    def note(role: RoleProcess) -> None:
        start(role)
        roles.append(role)

    monkeypatch.setattr(RoleProcess, "start", note)
    return roles


def test_a_role_that_cannot_start_stops_everything(
    tmp_path: Path, started: list[RoleProcess]
) -> None:
    (tmp_path / "gateway").touch()
    stack = stack_at(tmp_path)
    with pytest.raises(RoleFailed, match="gateway ended with status 3(?s:.*)cannot go on"), stack:
        pass
    assert [role.name for role in started] == ["gateway", "image-worker", "text-worker"]
    for role in started:
        with pytest.raises(RoleFailed):
            role.check()
    with redis.Redis.from_url(stack.redis_url) as client, pytest.raises(redis.ConnectionError):
        client.ping()


def test_roles_that_are_late_are_named(
    tmp_path: Path, started: list[RoleProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "_START_SECONDS", 0.0)
    stack = stack_at(tmp_path, redis_url="redis://given", environment={"MMI_PORT": "7"})
    names = "gateway, image-worker, text-worker"
    with pytest.raises(TimeoutError, match=f"not ready in time: {names}; see {stack.logs}"), stack:
        pass
    assert not (tmp_path / "redis").exists()
    told = [role._environment for role in started]
    assert {role["MMI_REDIS_URL"] for role in told} == {"redis://given"}
    assert {role["MMI_PORT"] for role in told} == {"7"}
    assert len({role["MMI_HEALTH_PORT"] for role in told}) == 3
