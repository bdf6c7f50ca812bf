"""`mmi autoscaling`: write the KEDA triggers of the workers for a number of partitions."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from service.broker.keys import GROUP, PRIORITIES, Keyspace
from service.config import RedisSettings
from service.messages import Stage

# KEDA's scaler for each form of Redis.
SCALERS = {
    "standalone": "redis-streams",
    "sentinel": "redis-sentinel-streams",
    "cluster": "redis-cluster-streams",
}
COMPONENTS = {
    "standalone": "autoscaling",
    "sentinel": "autoscaling-sentinel",
    "cluster": "autoscaling-cluster",
}
# Most replicas, and the tasks at a time for which one more replica is worth its cost: as many as it
# works on (MMI_CONCURRENCY), the cheapest choice in `mmi bench autoscaling --search`.
SIZES: dict[Stage, tuple[int, int]] = {"text": (8, 16), "image": (16, 4)}
COOLDOWN_S, STABILIZATION_S, POLLING_S = 300, 120, 5
# Text follows every image: while images are drawn, the last text worker stays. A task of the other
# stage counts so little that it wakes one worker and no more.
KEPT_AWAKE_BY: dict[Stage, Stage] = {"text": "image"}
AWAKE_SHARE = 0.001
_HEAD = """\
# Written by `mmi autoscaling --redis {redis} --partitions {partitions}`; do not edit.
# Replicas follow the queued tasks (lag of the consumer group) plus the running ones (pending
# entries), of all partitions and priorities. The lag alone would remove workers with running tasks,
# the pending entries alone would never wake from zero, and separate triggers would only take the
# largest of them. Text follows every image, so that images in progress keep one text worker.
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {stage}-worker
spec:
  scaleTargetRef: {{name: {stage}-worker}}
  minReplicaCount: 0
  maxReplicaCount: {most}
  pollingInterval: {polling}
  cooldownPeriod: {cooldown}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          stabilizationWindowSeconds: 0
        scaleDown:
          stabilizationWindowSeconds: {stabilization}
    scalingModifiers:
      formula: >-
{formula}
      # Tasks at a time for which one more replica is worth its cost.
      target: "{target}"
      activationTarget: "0"
      metricType: AverageValue
  triggers:
"""
# The address comes from the secret: KEDA runs in a namespace of its own.
_TRIGGER = """\
    - type: {scaler}
      name: {name}
      metadata:
        stream: {stream}
        consumerGroup: {group}
        {count}: "1"
      authenticationRef: {{name: mmi-redis}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--partitions", type=int, help="default: MMI_NUM_PARTITIONS")
    parser.add_argument("--redis", choices=SCALERS, default="standalone")
    parser.add_argument("--out", type=Path, help="default: the component of this form of Redis")


def run(args: argparse.Namespace) -> int:
    """Write one file for each stage."""
    num_partitions = args.partitions or RedisSettings().num_partitions
    directory = args.out or Path("k8s/components") / COMPONENTS[args.redis]
    for stage in SIZES:
        text = scaled_object(stage, num_partitions, args.redis)
        (directory / f"{stage}-worker.yaml").write_text(text)
    return 0


def _triggers(stage: Stage, num_partitions: int) -> dict[str, dict[str, str]]:
    """Stream and kind of count of everything queued and running in a stage, by name."""
    keys = Keyspace(num_partitions=num_partitions)
    return {
        f"{priority}_{kind}_{partition}": {
            "stream": keys.tasks(stage, priority, partition),
            "count": count,
        }
        for partition in range(num_partitions)
        for priority in PRIORITIES
        for kind, count in (("queued", "lagCount"), ("running", "pendingEntriesCount"))
    }


def scaled_object(stage: Stage, num_partitions: int, redis: str = "standalone") -> str:
    """The ScaledObject of a stage's worker, as YAML."""
    most, target = SIZES[stage]
    triggers = _triggers(stage, num_partitions)
    formula = " + ".join(triggers)
    if other := KEPT_AWAKE_BY.get(stage):
        others = {f"{other}_{name}": t for name, t in _triggers(other, num_partitions).items()}
        formula += f" + {AWAKE_SHARE} * ({' + '.join(others)})"
        triggers |= others
    head = _HEAD.format(
        redis=redis,
        partitions=num_partitions,
        stage=stage,
        most=most,
        polling=POLLING_S,
        cooldown=COOLDOWN_S,
        stabilization=STABILIZATION_S,
        formula=textwrap.indent(textwrap.fill(formula, 90), 8 * " "),
        target=target,
    )
    return head + "".join(
        _TRIGGER.format(scaler=SCALERS[redis], name=name, group=GROUP, **trigger)
        for name, trigger in triggers.items()
    )
