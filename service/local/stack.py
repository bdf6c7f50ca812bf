"""The whole system on one machine: an embedded Redis and the three roles as child processes."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from rich.console import Console

from service.local.embedded_redis import EmbeddedRedis, free_port
from service.local.processes import RoleProcess
from service.local.supervisor import Supervisor
from service.workers.checkpoint import choose_checkpoint

_START_SECONDS = 600.0
_STOP_SECONDS = 40.0


class Stack:
    """The running system, as a context manager: leaving it stops everything."""

    def __init__(
        self,
        cache_dir: Path,
        console: Console,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        checkpoint: Path | None = None,
        redis_url: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        self._console = console
        self.logs = cache_dir / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.host, self.port = host, port or free_port()
        self._redis: EmbeddedRedis | None = None
        self.redis_url = redis_url
        if not self.redis_url:
            self._redis = EmbeddedRedis(cache_dir / "redis", self.logs / "redis.log")
            self.redis_url = self._redis.url
        self._checkpoint, self._cache_dir = checkpoint, cache_dir
        self._environment = environment or {}
        self.roles: dict[str, RoleProcess] = {}

    @property
    def url(self) -> str:
        """Address of the gateway."""
        # A server on all addresses of IPv6 has none of IPv4.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def __enter__(self) -> Self:
        """Start everything and wait until it is ready."""
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._start()
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop everything."""
        self.stop()

    def _start(self) -> None:
        with self._console.status("finding a checkpoint, or making one if there is none"):
            checkpoint = choose_checkpoint(self._checkpoint, self._cache_dir)
        self._say(f"checkpoint: {checkpoint}")
        if self._redis is not None:
            self._redis.start()
            if self._redis.notice:
                self._say(self._redis.notice)
        environment = {
            "MMI_REDIS_URL": self.redis_url,
            "MMI_CHECKPOINT": str(checkpoint),
            "MMI_CACHE_DIR": str(self._cache_dir),
            "MMI_HOST": self.host,
            "MMI_PORT": str(self.port),
            **self._environment,
        }
        for name in ("gateway", "image-worker", "text-worker"):
            port = free_port()
            role_environment = {**environment, "MMI_HEALTH_PORT": str(port)}
            role = RoleProcess(name, port, role_environment, self.logs / f"{name}.log")
            self.roles[name] = role
            role.start()
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        waiting = dict(self.roles)
        give_up = time.monotonic() + _START_SECONDS
        with self._console.status("starting") as status:
            while waiting:
                for name, role in list(waiting.items()):
                    role.check()
                    if role.ready():
                        seconds = time.monotonic() - role.started
                        self._say(f"{name} ready after {seconds:.0f} s")
                        del waiting[name]
                if time.monotonic() > give_up:
                    raise TimeoutError(f"not ready in time: {', '.join(waiting)}; see {self.logs}")
                status.update(f"starting {', '.join(waiting)} (logs: {self.logs})")
                time.sleep(0.2)

    def watch(self) -> NoReturn:
        """Run until interrupted; start roles that end again.

        Raises:
            RoleFailed: a role keeps ending.
        """
        redis = [self._redis] if self._redis is not None else []
        supervisor = Supervisor([*redis, *self.roles.values()], self._say)
        while True:
            supervisor.check()
            time.sleep(0.3)

    def _say(self, text: str) -> None:
        self._console.print(f"  {text}", highlight=False, markup=False)

    def stop(self) -> None:
        """Stop the roles, which finish or nack what they hold, and then Redis."""
        if self.roles:
            self._console.print("stopping", highlight=False)
        for role in self.roles.values():
            role.terminate()
        give_up = time.monotonic() + _STOP_SECONDS
        for role in self.roles.values():
            role.wait(max(0.1, give_up - time.monotonic()))
        self.roles.clear()
        if self._redis is not None:
            self._redis.stop()
