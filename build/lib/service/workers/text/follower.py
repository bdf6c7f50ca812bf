"""A text worker on a host that only lends its GPUs to the engine of another host."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from model.engine.text.follower import RankHolder
from service.config import TextWorkerSettings
from service.telemetry.health import HealthServer

logger = logging.getLogger(__name__)


async def follow(settings: TextWorkerSettings, follower: RankHolder) -> int:
    """Run until the engine ends; returns 1, so that a supervisor starts this host again.

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
    await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        await asyncio.wait({running}, timeout=settings.drain_s)
    await health.stop()
    if running.done():
        running.result()
        logger.critical("the engine has ended: this host's ranks end with it")
        return 0 if draining.is_set() else 1
    await asyncio.to_thread(follower.stop)
    # A rank that waits for others may hold the thread forever.
    os._exit(0)
