"""`mmi autoscaling`: write the KEDA triggers of the workers for a number of partitions."""

from __future__ import annotations

import argparse
from pathlib import Path

from service.broker.keys import GROUP, PRIORITIES, Keyspace
from service.config import RedisSettings
from service.messages import Stage

# Most replicas, and the tasks at a time for which one more replica is worth its cost.
_SIZES: dict[Stage, tuple[int, int]] = {"text": (8, 8), "image": (16, 2)}
_HEAD = """\
# Written by `mmi autoscaling --partitions {partitions}`; do not edit.
# Replicas follow the queued tasks (lag of the consumer group) plus the running ones (pending
# entries), of all partitions and priorities. The lag alone would remove workers with running tasks,
# the pending entries alone would never wake from zero, and separate triggers would only take the
# largest of them.
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {stage}-worker
spec:
  scaleTargetRef: {{name: {stage}-worker}}
  minReplicaCount: 0
  maxReplicaCount: {most}
  pollingInterval: 5
  cooldownPeriod: 300
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          stabilizationWindowSeconds: 0
        scaleDown:
          stabilizationWindowSeconds: 120
    scalingModifiers:
      formula: {formula}
      # Tasks at a time for which one more replica is worth its cost.
      target: "{target}"
      activationTarget: "0"
      metricType: AverageValue
  triggers:
"""
_TRIGGER = """\
    - type: redis-streams
      name: {name}
      metadata:
        address: redis.mm-interleaved.svc:6379
        stream: {stream}
        consumerGroup: {group}
        {count}: "1"
      authenticationRef: {{name: mmi-redis}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--partitions", type=int, help="default: MMI_NUM_PARTITIONS")
    parser.add_argument("--out", type=Path, default=Path("k8s/components/autoscaling"))


def run(args: argparse.Namespace) -> int:
    """Write one file for each stage."""
    num_partitions = args.partitions or RedisSettings().num_partitions
    for stage in _SIZES:
        path = args.out / f"{stage}-worker.yaml"
        path.write_text(scaled_object(stage, num_partitions))
    return 0


def scaled_object(stage: Stage, num_partitions: int) -> str:
    """The ScaledObject of a stage's worker, as YAML."""
    keys, (most, target) = Keyspace(num_partitions=num_partitions), _SIZES[stage]
    triggers = {
        f"{priority}_{kind}_{partition}": {"stream": keys.tasks(stage, priority, partition)}
        | {"count": count}
        for partition in range(num_partitions)
        for priority in PRIORITIES
        for kind, count in (("queued", "lagCount"), ("running", "pendingEntriesCount"))
    }
    head = _HEAD.format(
        partitions=num_partitions,
        stage=stage,
        most=most,
        target=target,
        formula=" + ".join(triggers),
    )
    return head + "".join(
        _TRIGGER.format(name=name, group=GROUP, **trigger) for name, trigger in triggers.items()
    )
