"""Tells Kubernetes how busy this worker's pod is, so that it scales down by the idlest one."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx

from service.config import WorkerSettings

logger = logging.getLogger(__name__)

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
_PERIOD_S = 5.0
_TIMEOUT_S = 5.0


class DeletionCost:
    """Annotates the pod of this process with its number of turns, in powers of two.

    Coarse numbers change seldom, and each change is a write to the API server.
    """

    def __init__(self, settings: WorkerSettings, num_turns: Callable[[], int]) -> None:
        self._pod = settings.pod_name
        self._api = settings.kubernetes_api
        self._credentials = settings.kubernetes_credentials
        self._num_turns = num_turns
        self._told: int | None = None

    async def keep_told(self) -> None:
        """Tell of every change until cancelled; at once if there is no pod."""
        if not self._pod:
            return
        context = await asyncio.to_thread(self._trust)
        async with httpx.AsyncClient(
            base_url=self._api, verify=context, timeout=_TIMEOUT_S, trust_env=False
        ) as client:
            while True:
                await self._tell(client, cost_of(self._num_turns()))
                await asyncio.sleep(_PERIOD_S)

    def _trust(self) -> ssl.SSLContext:
        authority = self._credentials / "ca.crt"
        return ssl.create_default_context(cafile=authority if authority.is_file() else None)

    async def _tell(self, client: httpx.AsyncClient, cost: int) -> None:
        if cost == self._told:
            return
        try:
            reply = await client.patch(
                f"/api/v1/namespaces/{self._read('namespace')}/pods/{self._pod}",
                json={"metadata": {"annotations": {ANNOTATION: str(cost)}}},
                headers={
                    "Authorization": f"Bearer {self._read('token')}",
                    "Content-Type": "application/merge-patch+json",
                },
            )
            reply.raise_for_status()
            self._told = cost
        except (httpx.HTTPError, OSError) as error:
            logger.warning("the pod's deletion cost was not changed: %s", type(error).__name__)

    def _read(self, name: str) -> str:
        """A file of the service account; Kubernetes renews the token."""
        return Path(self._credentials / name).read_text().strip()


def cost_of(num_turns: int) -> int:
    """0 for an idle worker, then 1, 2, 3, ... for 1, 2, 4, ... turns."""
    return num_turns.bit_length()
