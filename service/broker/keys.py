"""The names of all keys in Redis.

Everything of a request carries its partition as hash tag, so that one script can touch it in
Redis Cluster too. `<p>` is the partition, `<s>` the stage:

    mmi:{<p>}:<s>                 stream   interactive tasks, group `workers`
    mmi:{<p>}:<s>:batch           stream   batch tasks, group `workers`
    mmi:{<p>}:dead                stream   tasks that were given up, with the reason
    mmi:{<p>}:load                hash     reserved work, active requests, drain rates; also the
                                           channel that names requests ended from outside
    mmi:{<p>}:deadlines           zset     request ids of the partition by deadline
    mmi:{<p>}:request:<id>        hash     request, state, turn, attempt, fence, results
    mmi:{<p>}:request:<id>.<n>    hash     the same of one of several answers (choices) to it
    mmi:{<p>}:events:<id>         stream   events; also the name of the channel that wakes readers
    mmi:{0}:card                  string   what gateways must know of the model
    mmi:{<p>}:blob:<sha256>       string   bytes; partition by hash
    mmi:{<p>}:owned:<owner>:<sha256>  string  the image is of this owner; partition by owner
    mmi:{<p>}:owner:<owner>       hash     token bucket; partition by owner
    mmi:{<p>}:running:<owner>     zset     request ids in progress by expiry
    mmi:{<p>}:once:<owner>:<key>  string   idempotency key -> request id, fingerprint of the body
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
    """Key names for one namespace and number of partitions."""

    namespace: str = "mmi"
    num_partitions: int = 1

    def partition(self, name: str) -> int:
        """The partition that `name` (a request id, hash or owner) belongs to.

        A choice lives where its request does.
        """
        return zlib.crc32(name.partition(".")[0].encode()) % self.num_partitions

    def _key(self, partition: int, *rest: str) -> str:
        return ":".join((f"{self.namespace}:{{{partition}}}", *rest))

    def _of(self, name: str, kind: str, *rest: str) -> str:
        return self._key(self.partition(name), kind, *(rest or (name,)))

    def tasks(self, stage: Stage, priority: Priority, partition: int) -> str:
        """Stream of tasks."""
        suffix = ("batch",) if priority == "batch" else ()
        return self._key(partition, stage, *suffix)

    def all_tasks(self, stage: Stage) -> list[str]:
        """All streams of a stage."""
        return [
            self.tasks(stage, priority, partition)
            for partition in range(self.num_partitions)
            for priority in PRIORITIES
        ]

    def dead(self, partition: int) -> str:
        """Stream of tasks that were given up."""
        return self._key(partition, "dead")

    def load(self, partition: int) -> str:
        """Hash of reserved work and drain rates."""
        return self._key(partition, "load")

    def deadlines(self, partition: int) -> str:
        """Sorted set of request ids by deadline."""
        return self._key(partition, "deadlines")

    def request(self, request_id: str) -> str:
        """Hash of a request's record."""
        return self._of(request_id, "request")

    def events(self, request_id: str) -> str:
        """Stream of a request's events, and the channel that wakes its readers.

        All choices of a request tell theirs there.
        """
        return self._of(request_id.partition(".")[0], "events")

    def card(self) -> str:
        """The card of the model that is served."""
        return self._key(0, "card")

    def blob(self, sha256: str) -> str:
        """Bytes of that hash."""
        return self._of(sha256, "blob")

    def bucket(self, owner: str) -> str:
        """Token bucket of an owner."""
        return self._of(owner, "owner")

    def running(self, owner: str) -> str:
        """Requests in progress of an owner."""
        return self._of(owner, "running")

    def idempotency_key(self, owner: str, name: str) -> str:
        """What an owner's idempotency key stands for."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self._of(owner, "once", owner, digest)

    def owned(self, owner: str, sha256: str) -> str:
        """There if the image of that hash is of this owner."""
        return self._of(owner, "owned", owner, sha256)
