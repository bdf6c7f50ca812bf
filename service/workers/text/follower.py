"""A text worker on a host that only lends its GPUs to the engine of another host."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from model.engine.text.startup.follower import RankHolder
from service.config import TextWorkerSettings
from service.telemetry.health import HealthServer

logger = logging.getLogger(__name__)

# Between looks at the leader, the longest wait for its answer, and looks in vain until it is lost.
_LOOK_S, _ANSWER_S, _MISSES = 5.0, 5.0, 3


async def follow(settings: TextWorkerSettings, follower: RankHolder) -> int:
    """Run until the engine or its leader ends.

    Returns 0 after SIGTERM and 1 otherwise, so that a supervisor starts it again. Where ranks still
    hold their thread, the process ends at once with that status.

    On SIGTERM the ranks stay for `drain_s`: the leader, which is told at the same time, finishes
    its turns with them.
    """
    draining = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, draining.set)

    async def ready() -> bool:
        return follower.started and not draining.is_set()

    health = HealthServer(
        settings.health_host, settings.health_port, live=lambda: True, ready=ready
    )
    await health.start()
    running = asyncio.create_task(asyncio.to_thread(follower.run))
    told = asyncio.create_task(draining.wait())
    lost = asyncio.create_task(_lose_leader(settings.leader_address, follower))
    await asyncio.wait({running, told, lost}, return_when=asyncio.FIRST_COMPLETED)
    if draining.is_set():
        ends = asyncio.FIRST_COMPLETED
        await asyncio.wait({running, lost}, timeout=settings.drain_s, return_when=ends)
    await health.stop()
    is_lost = lost.done()
    told.cancel()
    lost.cancel()
    if running.done():
        running.result()
        logger.critical("the engine has ended: this host's ranks end with it")
        return 0 if draining.is_set() else 1
    if is_lost:
        logger.critical("the leader at %s is gone", settings.leader_address)
    await asyncio.to_thread(follower.stop)
    # A rank that waits for others may hold the thread forever.
    os._exit(1 if is_lost and not draining.is_set() else 0)


async def _lose_leader(address: str, follower: RankHolder) -> None:
    """Return once nothing listens any more at the address where the ranks have met.

    Ranks that wait for a message of a dead leader wait forever, and hold their GPU's memory.
    """
    host, _, port = address.rpartition(":")
    misses = 0
    while misses < _MISSES:
        await asyncio.sleep(_LOOK_S)
        if not follower.started:
            continue  # The leader may come later.
        try:
            opened = asyncio.open_connection(host, int(port))
            _, writer = await asyncio.wait_for(opened, _ANSWER_S)
        except (OSError, TimeoutError):
            misses += 1
        else:
            writer.close()
            misses = 0
