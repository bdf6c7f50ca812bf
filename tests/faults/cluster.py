"""A Redis Cluster of real servers: masters that share the slots, and one replica of each."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import redis

from service.local.embedded_redis import find_server, free_port

NUM_MASTERS = 3
NUM_SLOTS = 16_384
# Silence after which the others elect a dead master's replica.
NODE_TIMEOUT_MS = 2000
_PATIENCE_S = 60.0


class ClusterNode:
    """One server."""

    def __init__(self, directory: Path) -> None:
        self.port, self._bus = free_port(), free_port()
        self._directory = directory
        directory.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers; it remembers its place in the cluster."""
        settings = {
            "port": self.port,
            "cluster-port": self._bus,
            "bind": "127.0.0.1",
            "dir": self._directory,
            "logfile": self._directory / "log",
            "cluster-enabled": "yes",
            "cluster-node-timeout": NODE_TIMEOUT_MS,
            "appendonly": "yes",
            "save": "",
            "repl-diskless-sync-delay": 0,
        }
        options = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([find_server(), *options])
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self.command("PING")
            except redis.exceptions.ConnectionError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.05)

    def command(self, *words: Any) -> Any:
        with redis.Redis(port=self.port, decode_responses=True, socket_timeout=5) as client:
            return client.execute_command(*words)

    def meet(self, other: ClusterNode) -> None:
        self.command("CLUSTER", "MEET", "127.0.0.1", other.port, other._bus)

    @property
    def node_id(self) -> str:
        return str(self.command("CLUSTER MYID"))

    def known(self) -> set[str]:
        """Ids of the nodes that it has met."""
        return {node["node_id"] for node in self.command("CLUSTER NODES").values()}

    @property
    def sees_all_slots(self) -> bool:
        return bool(self.command("CLUSTER INFO")["cluster_state"] == "ok")

    @property
    def is_master(self) -> bool:
        return bool(self.command("ROLE")[0] == "master")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def alive(self) -> bool:
        return self._process is not None


class RedisCluster:
    """Masters and replicas; `start` joins them."""

    def __init__(self, directory: Path) -> None:
        self.nodes = [ClusterNode(directory / str(i)) for i in range(2 * NUM_MASTERS)]

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{nodes}"

    def start(self) -> None:
        """Start all nodes, share out the slots, and wait until every slot is served twice."""
        for node in self.nodes:
            node.start()
        masters, replicas = self.nodes[:NUM_MASTERS], self.nodes[NUM_MASTERS:]
        bounds = [NUM_SLOTS * i // NUM_MASTERS for i in range(NUM_MASTERS + 1)]
        for master, first, end in zip(masters, bounds, bounds[1:], strict=False):
            master.command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for node in self.nodes[1:]:
            self.nodes[0].meet(node)
        for replica, master in zip(replicas, masters, strict=True):
            self._until(lambda r=replica, m=master: m.node_id in r.known())
            replica.command("CLUSTER", "REPLICATE", master.node_id)
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Return once all nodes see all slots served, and every replica follows its master."""
        for node in self.nodes:
            self._until(lambda node=node: node.sees_all_slots)
        self._until(lambda: sum(node.is_master for node in self.nodes) == NUM_MASTERS)
        for node in self.nodes:
            if not node.is_master:
                self._until(lambda node=node: node.command("ROLE")[3] == "connected")

    def _until(self, true: Any) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while not true():
            assert time.monotonic() < give_up, "the cluster is not whole"
            time.sleep(0.1)

    def masters(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.alive and node.is_master]

    def fail_over(self, master: ClusterNode) -> None:
        """Kill a master, wait until a replica has taken its slots, and bring it back as one."""
        master.kill()
        self._until(lambda: len(self.masters()) == NUM_MASTERS)
        master.start()
        self.wait_until_whole()

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
