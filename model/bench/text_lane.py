"""A variant of `mmi bench text` in a process of its own, which serves batches on demand.

All variants are up at the same time and idle but one, so that a batch can be measured on each of
them within seconds: what else the machine does meanwhile then disturbs them alike. Each one's
memory and processor time are those of its process and its descendants.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from model.bench.text_requests import Workload
from model.bench.text_result import Run
from model.engine.text.options import TextEngineOptions
from model.segments import Segment

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_WARM_UP = 1 << 20  # Requests of this number and above are no measured ones.


class Server(Protocol):
    """What a variant must be able to do."""

    async def run(self, contexts: list[tuple[Segment, ...]], num_tokens: int) -> Run:
        """Generate so many tokens, greedily, for requests that come at the same time."""

    async def stop(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class Job:
    """What a lane is to serve; `cores` are the ones that its model may compute on."""

    variant: str
    options: TextEngineOptions
    num_images: int
    num_words: int
    cores: tuple[int, ...]


class Lane:
    """The parent's handle of a variant's process."""

    def __init__(self, job: Job) -> None:
        """Start the process; `ready` waits until it can serve."""
        self.variant = job.variant
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(other, job))
        with _environment(_threads(job)):
            self._process.start()
        other.close()

    def ready(self) -> None:
        """Wait until the model is loaded and warm."""
        self._receive()

    def run(self, first: int, batch: int, num_tokens: int) -> Run:
        """Serve `batch` requests, the ones numbered from `first` on."""
        self._connection.send((first, batch, num_tokens))
        run = self._receive()
        assert isinstance(run, Run)
        return run

    def stop(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._connection.send(None)
        self._process.join()

    def _receive(self) -> Run | None:
        try:
            answer: Run | None = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.variant!r} has ended") from None
        return answer


def _threads(job: Job) -> dict[str, str]:
    """Environment that gives every variant the same cores.

    vLLM reserves cores for its other processes and, where a KV connector is configured, one more:
    on a machine of two it would compute on one core without our connector and on two with it.
    """
    cores = job.cores
    given = {"OMP_NUM_THREADS": str(len(cores))}
    if job.variant == "official":
        return given | {"GOMP_CPU_AFFINITY": " ".join(map(str, cores))}
    return given | {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores))}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a child about to be started; threads are bound when libraries load."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, job: Job) -> None:
    """Body of the process."""
    asyncio.run(_answer(connection, job))


async def _answer(connection: Connection, job: Job) -> None:
    """Load, warm up, and measure what is asked for until there is nothing more."""
    checkpoint = job.options.checkpoint
    workload = Workload.make(checkpoint, job.num_images, job.num_words)
    with tempfile.TemporaryDirectory(prefix="mmi-stock-") as directory:
        server = await _start(job, workload, Path(directory))
        try:
            await server.run(workload.contexts(_WARM_UP, 2), 4)
            connection.send(None)
            # In a thread, because vLLM's tasks live in this loop.
            while (request := await asyncio.to_thread(connection.recv)) is not None:
                first, batch, num_tokens = request
                connection.send(await server.run(workload.contexts(first, batch), num_tokens))
        finally:
            await server.stop()


async def _start(job: Job, workload: Workload, directory: Path) -> Server:
    """The variant itself."""
    if job.variant == "official":
        from model.bench.text_official import OfficialServer

        return OfficialServer(job.options, workload)
    from model.bench import text_served

    if job.variant == "ours":
        return await text_served.start_ours(job.options, workload)
    return await text_served.start_stock(job.options, directory, workload)
