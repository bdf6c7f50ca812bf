"""Prometheus metrics of all roles; a role exports those that it changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FINE = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5)

ADMISSION_OUTCOMES = (
    "accepted",
    "repeated",
    "queue_full",
    "rate_limited",
    "too_many_concurrent",
)
REQUESTS = Counter("mmi_requests_total", "Requests by outcome of admission", ["outcome"])
FINISHED = Counter("mmi_requests_finished_total", "Requests by terminal state", ["state"])
TIME_TO_FIRST_EVENT = Histogram(
    "mmi_time_to_first_part_seconds",
    "Start of a stream to its first text or denoising step",
    buckets=_SECONDS,
)
HTTP_REQUESTS = Counter(
    "mmi_http_requests_total", "HTTP requests by route and class of status", ["route", "status"]
)
HTTP_SECONDS = Histogram(
    "mmi_http_request_seconds",
    "HTTP request to first byte of its answer",
    ["route"],
    buckets=_SECONDS,
)
OPEN_STREAMS = Gauge("mmi_open_streams", "Event streams that clients are reading")
LAGGING_STREAMS = Counter("mmi_lagging_streams_total", "Slow readers that now read from Redis")

TURNS = Counter("mmi_turns_total", "Turns by stage and outcome", ["stage", "outcome"])
TURN_SECONDS = Histogram("mmi_turn_seconds", "Length of a turn", ["stage"], buckets=_SECONDS)
TURN_WAIT_SECONDS = Histogram(
    "mmi_turn_wait_seconds", "Time that a task waits in its stream", ["stage"], buckets=_SECONDS
)
ACTIVE_TURNS = Gauge("mmi_active_turns", "Turns in progress here", ["stage"])
RECLAIMED = Counter("mmi_reclaimed_total", "Tasks reclaimed from dead workers", ["stage"])
DEAD_LETTERS = Counter("mmi_dead_letters_total", "Tasks moved to the dead-letter stream", ["stage"])
STALE = Counter("mmi_stale_attempts_total", "Turns refused because another attempt holds them")
TOKEN_KINDS = ("prompt", "cached", "output")
TOKENS = Counter("mmi_tokens_total", "Tokens", ["kind"])
IMAGES = Counter("mmi_images_total", "Images generated")
IMAGE_STEPS = Counter("mmi_image_steps_total", "Denoising steps done")
APPEND_SECONDS = Histogram("mmi_append_seconds", "Appending events to Redis", buckets=_FINE)
BROKER_ERRORS = Counter("mmi_broker_errors_total", "Failed calls to Redis, including retried ones")
READY = Gauge("mmi_ready", "1 while this process takes work")
QUEUED_WORK = Gauge("mmi_queued_work", "Reserved work: tokens or denoising steps", ["stage"])


def start_at_zero(metric: Counter | Histogram, *values: Iterable[str]) -> None:
    """Create the series of all combinations of label values: a rate needs a 0 to start from."""
    for labels in itertools.product(*values):
        metric.labels(*labels)
