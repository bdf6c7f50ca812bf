"""A variant of `mmi bench text` in a process of its own, which serves batches on demand.

All variants are loaded at the same time, and all but one are idle, so that each batch runs on all
of them within seconds and other load on the machine disturbs them alike. Memory and processor time
are those of the variant's process and its descendants.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from model.bench.text.result import ServedBatch
from model.bench.text.workload import Workload
from model.engine.text.options import TextEngineOptions
from model.segments import Segment

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_WARM_UP = 1 << 20  # Requests of this number and above are not measured.


class TextServer(Protocol):
    """A loaded variant."""

    async def serve(self, contexts: list[tuple[Segment, ...]], num_tokens: int) -> ServedBatch:
        """Generate `num_tokens` tokens, greedily, for requests that arrive at the same time."""

    async def stop(self) -> None: ...


@dataclass(frozen=True)
class LaneOptions:
    """A variant and its settings; its model computes on `cores`."""

    variant: str
    options: TextEngineOptions
    num_images: int
    num_words: int
    cores: tuple[int, ...]


class Lane:
    """The parent's handle of a variant's process."""

    def __init__(self, job: LaneOptions) -> None:
        """Start the process; wait for `ready` before the first batch."""
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

    def serve(self, first: int, batch: int, num_tokens: int) -> ServedBatch:
        """Serve `batch` requests, numbered from `first` on."""
        self._connection.send((first, batch, num_tokens))
        served = self._receive()
        assert served is not None
        return served

    def stop(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):  # It may have died.
            self._connection.send(None)
        self._process.join()

    def _receive(self) -> ServedBatch | None:
        try:
            answer: ServedBatch | None = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.variant!r} has ended unexpectedly") from None
        return answer


def _threads(job: LaneOptions) -> dict[str, str]:
    """Environment that gives every variant the same cores.

    vLLM reserves cores for its other processes, and one more with a KV connector. On two cores it
    would compute on one core without our connector, and on both with it.
    """
    cores = job.cores
    given = {"OMP_NUM_THREADS": str(len(cores))}
    if job.variant == "official":
        return given | {"GOMP_CPU_AFFINITY": " ".join(map(str, cores))}
    return given | {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores))}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables while a child process starts: libraries bind their threads when they load."""
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


def _serve(connection: Connection, job: LaneOptions) -> None:
    """Run in the child process."""
    asyncio.run(_answer(connection, job))


async def _answer(connection: Connection, job: LaneOptions) -> None:
    """Load, warm up, and serve batches until the parent sends None."""
    checkpoint = job.options.checkpoint
    workload = Workload.make(checkpoint, job.num_images, job.num_words)
    with tempfile.TemporaryDirectory(prefix="mmi-stock-") as directory:
        server = await _start(job, workload, Path(directory))
        try:
            await server.serve(workload.contexts(_WARM_UP, 2), 4)
            connection.send(None)
            # Receive in a thread: vLLM's tasks need this loop.
            while (request := await asyncio.to_thread(connection.recv)) is not None:
                first, batch, num_tokens = request
                connection.send(await server.serve(workload.contexts(first, batch), num_tokens))
        finally:
            await server.stop()


async def _start(job: LaneOptions, workload: Workload, directory: Path) -> TextServer:
    if job.variant == "official":
        from model.bench.text.published import PublishedLoop

        return PublishedLoop(job.options, workload)
    from model.bench.text import served

    if job.variant == "ours":
        return await served.start_ours(job.options, workload)
    return await served.start_stock(job.options, directory, workload)
