"""A worker keeps the deletion cost of its pod, by an API server's interface."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.workers import deletion_cost
from service.workers.deletion_cost import ANNOTATION, cost_of
from tests.service.workers.conftest import Stage


class ApiServer:
    """Notes patches; the first one fails."""

    def __init__(self) -> None:
        self.patches: list[tuple[str, dict[str, str], Any]] = []
        self.num_calls = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                outer.num_calls += 1
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                good = outer.num_calls > 1
                if good:
                    outer.patches.append((self.path, dict(self.headers), body))
                self.send_response(200 if good else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def costs(self) -> list[str]:
        return [body["metadata"]["annotations"][ANNOTATION] for _, _, body in self.patches]


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server = ApiServer()
    yield server
    server.stop()


async def test_a_worker_annotates_its_pod_as_its_load_changes(
    stage: Stage, api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion_cost, "_PERIOD_S", 0.05)
    for name, content in (("namespace", "somewhere\n"), ("token", "secret\n")):
        (tmp_path / name).write_text(content)
    await stage.start(
        "text", pod_name="text-worker-1", kubernetes_api=api.url, kubernetes_credentials=tmp_path
    )
    while api.costs != ["0"]:
        await asyncio.sleep(0.01)
    engine = stage.engines[0]
    engine.pause.clear()
    requests = [await stage.submit(f"busy {i}", output_modalities=("text",)) for i in range(3)]
    while api.costs[-1] != "2":
        await asyncio.sleep(0.01)
    engine.pause.set()
    for request in requests:
        await stage.events(request)
    while api.costs[-1] != "0":
        await asyncio.sleep(0.01)

    path, headers, _ = api.patches[0]
    assert path == "/api/v1/namespaces/somewhere/pods/text-worker-1"
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/merge-patch+json"


async def test_without_a_pod_nothing_is_told(stage: Stage, api: ApiServer) -> None:
    await stage.start("text", kubernetes_api=api.url)
    request = await stage.submit("alone", output_modalities=("text",))
    await stage.events(request)
    assert api.num_calls == 0


def test_costs_change_seldom() -> None:
    assert [cost_of(n) for n in (0, 1, 2, 3, 4, 7, 8, 16)] == [0, 1, 2, 2, 3, 3, 4, 5]
