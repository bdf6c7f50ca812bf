"""The names of all keys and channels in Redis.

All keys of a request have the same hash tag, its partition, so that one script can use them in
Redis Cluster too. `<p>` is the partition, `<s>` the stage, `mmi` the namespace:

    mmi:{<p>}:<s>                     stream   interactive tasks, group `workers`
    mmi:{<p>}:<s>:batch               stream   batch tasks, group `workers`
    mmi:{<p>}:dead                    stream   dead letters: tasks given up, with the reason
    mmi:{<p>}:load                    hash     reserved work, active requests, drain rates
                                      channel  ids of requests that were ended from outside a turn
    mmi:{<p>}:deadlines               zset     ids of active requests by deadline
    mmi:{<p>}:request:<id>            hash     the request, its state, results and current attempt
    mmi:{<p>}:request:<id>.<n>        hash     the same of choice n of a request for several answers
    mmi:{<p>}:events:<id>             stream   events of the request and of all its choices
                                      channel  the same events, as they are appended
    mmi:{0}:card                      string   what gateways must know of the model
    mmi:{0}:load:ping                 none     read by health checks, never written
    mmi:{0}:load:synced               string   written before WAITAOF
    mmi:{0}:load:hub                  channel  keeps an event hub's connection subscribed
    mmi:{<p>}:blob:<sha256>           string   bytes; partition by hash
    mmi:{<p>}:owned:<owner>:<sha256>  string   the owner may read this image; partition by owner
    mmi:{<p>}:owner:<owner>           hash     the owner's token bucket; partition by owner
    mmi:{<p>}:running:<owner>         zset     ids of the owner's active requests by expiry
    mmi:{<p>}:once:<owner>:<sha256>   string   request id and body hash of an idempotency key
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

from service.messages import Priority, Stage

GROUP = "workers"
PRIORITIES: tuple[Priority, ...] = ("interactive", "batch")


@dataclass(frozen=True)
class Keyspace:
    """The key names of one namespace with a number of partitions."""

    namespace: str = "mmi"
    num_partitions: int = 1

    def partition(self, name: str) -> int:
        """The partition of a request id, hash or owner; a choice is stored with its request."""
        return zlib.crc32(name.partition(".")[0].encode()) % self.num_partitions

    def _key(self, partition: int, *rest: str) -> str:
        return ":".join((f"{self.namespace}:{{{partition}}}", *rest))

    def _of(self, name: str, kind: str, *rest: str) -> str:
        return self._key(self.partition(name), kind, *(rest or (name,)))

    def tasks(self, stage: Stage, priority: Priority, partition: int) -> str:
        suffix = ("batch",) if priority == "batch" else ()
        return self._key(partition, stage, *suffix)

    def all_tasks(self, stage: Stage) -> list[str]:
        """The task streams of a stage: all partitions, all priorities."""
        return [
            self.tasks(stage, priority, partition)
            for partition in range(self.num_partitions)
            for priority in PRIORITIES
        ]

    def dead_letters(self, partition: int) -> str:
        return self._key(partition, "dead")

    def load(self, partition: int) -> str:
        return self._key(partition, "load")

    def all_loads(self) -> list[str]:
        return [self.load(partition) for partition in range(self.num_partitions)]

    def deadlines(self, partition: int) -> str:
        return self._key(partition, "deadlines")

    def request(self, request_id: str) -> str:
        return self._of(request_id, "request")

    def events(self, request_id: str) -> str:
        """Stream and channel of a request's events; its choices share them."""
        return self._of(request_id.partition(".")[0], "events")

    def card(self) -> str:
        return self._key(0, "card")

    def ping(self) -> str:
        return self._key(0, "load", "ping")

    def sync_mark(self) -> str:
        return self._key(0, "load", "synced")

    def hub(self) -> str:
        return self._key(0, "load", "hub")

    def blob(self, sha256: str) -> str:
        return self._of(sha256, "blob")

    def owned(self, owner: str, sha256: str) -> str:
        return self._of(owner, "owned", owner, sha256)

    def bucket(self, owner: str) -> str:
        return self._of(owner, "owner")

    def running(self, owner: str) -> str:
        return self._of(owner, "running")

    def idempotency_key(self, owner: str, name: str) -> str:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self._of(owner, "once", owner, digest)
