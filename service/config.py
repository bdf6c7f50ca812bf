"""Settings, one class per role, from the environment (prefix `MMI_`); a bad value stops startup.

The command that needs them builds them once and passes them down. No other module of the service
reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _split(value: Any) -> Any:
    """`a, b` from the environment as a tuple."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Numbers = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_split)]
# Of an image worker; the text worker's share of a GPU leaves room for it.
_IMAGE_CONCURRENCY = 4


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process: this process's own, changed by `settings`."""
    return {**os.environ, **settings}


class LocalSettings(BaseSettings):
    """Settings of the commands that a person runs: `mmi generate`, `eval`, `serve`, `demo`."""

    model_config = SettingsConfigDict(
        env_prefix="MMI_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    url: str = Field(default="http://127.0.0.1:8000", description="The gateway to ask")
    api_key: str | None = Field(default=None, repr=False)
    cache_dir: Path = Path(".build")
    checkpoint: Path | None = None
    redis_url: str = Field(
        default="",
        repr=False,
        validation_alias=AliasChoices("MMI_REDIS_URL", "REDIS_URL"),
        description="Empty: start an embedded server",
    )


class RedisSettings(BaseSettings):
    """Redis: its address, bounds and retention times. All roles must agree on these."""

    model_config = SettingsConfigDict(
        env_prefix="MMI_", frozen=True, extra="ignore", populate_by_name=True
    )

    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias=AliasChoices("MMI_REDIS_URL", "REDIS_URL"),
        description="redis:// or (TLS) rediss://; with +cluster or +sentinel: //h1,h2/service",
    )
    redis_max_connections: int = Field(default=64, ge=2)
    redis_timeout_s: float = Field(default=5.0, gt=0)
    redis_retry_s: float = Field(default=30.0, ge=0, description="Time after which a call fails")
    namespace: str = Field(default="mmi", pattern=r"^[a-z0-9-]{1,32}$")
    num_partitions: int = Field(default=1, ge=1, le=256)

    event_ttl_s: int = Field(default=3600, ge=1, description="Of events, after the end")
    request_ttl_s: int = Field(default=86_400, ge=1, description="Of the record, after the end")
    blob_ttl_s: int = Field(default=7200, ge=1)

    max_text_work: int = Field(default=2_000_000, ge=1, description="Reserved tokens, in all")
    max_image_work: int = Field(default=200_000, ge=1, description="Reserved denoising steps")
    max_active_requests: int = Field(default=10_000, ge=1)
    batch_share: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Batch requests may fill this share of the bounds",
    )
    wait_aof: bool = Field(
        default=False, description="Accept a request only once it is on disk (WAITAOF)"
    )
    log_level: str = "INFO"

    @model_validator(mode="after")
    def _waits_for_one_server(self) -> Self:
        if self.wait_aof and "+cluster:" in self.redis_url.get_secret_value():
            raise ValueError("wait_aof does not work with Redis Cluster")
        return self


class RoleSettings(RedisSettings):
    """Settings of every role."""

    otlp_endpoint: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Where traces go (OTLP over HTTP), as http://collector:4318; empty: nowhere",
    )
    health_host: str = Field(default="127.0.0.1", description="For probes and /metrics")
    health_port: int = Field(default=0, ge=0, le=65535, description="0: any free port")


class GatewaySettings(RoleSettings):
    """The gateway."""

    health_port: int = Field(default=9100, ge=0, le=65535)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    model_name: str = Field(default="mm-interleaved", description="As listed in /v1/models")

    auth: Literal["keys", "off"] = Field(default="keys", description="`off` is for demos only")
    api_keys_file: Path | None = Field(default=None, description="Written by mmi keys")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Of each owner")
    concurrent_requests: int | None = Field(default=None, ge=1, description="Of each owner")
    allowed_hosts: Names = Field(
        default=(), description="Host headers beside this machine's own names"
    )
    cors_origins: Names = ()
    image_url_hosts: Names = Field(
        default=(), description="Hosts to fetch from; empty: refuse URLs"
    )
    image_url_authorities: Path | None = Field(
        default=None,
        description="PEM file of the CAs of those hosts; None: the public ones",
    )

    on_disconnect: Literal["cancel", "continue"] = "cancel"
    deadline_ms: int = Field(default=600_000, ge=1, description="Of a request that names none")
    ping_s: float = Field(default=10.0, gt=0, le=15)
    drain_s: float = Field(default=30.0, ge=0, description="Time for open streams after SIGTERM")

    max_body_bytes: int = Field(default=32 * 2**20, ge=1024)
    max_bodies_bytes: int = Field(default=256 * 2**20, ge=1024, description="Of one process")
    max_images_in: int = Field(default=16, ge=0)
    max_choices: int = Field(default=4, ge=1, le=16, description="Answers to one request (n)")
    max_image_pixels: int = Field(default=25_000_000, ge=64)
    max_images_pixels: int = Field(default=64_000_000, ge=64)
    max_text_characters: int = Field(default=100_000, ge=1)


class WorkerSettings(RoleSettings):
    """Settings of both workers."""

    checkpoint: Path | None = Field(default=None, description="None: the shipped one")
    cache_dir: Path = Path(".build")
    concurrency: int = Field(default=16, ge=1, description="Turns at a time")
    lease_s: float = Field(
        default=15.0, gt=0, description="Silence after which another worker reclaims a turn"
    )
    max_deliveries: int = Field(default=5, ge=1)
    stall_s: float = Field(
        default=120.0,
        gt=0,
        description="Time without a step of a busy engine after which the worker ends",
    )
    drain_s: float = Field(
        default=30.0, ge=0, description="Time for turns after SIGTERM before they are handed back"
    )
    batch_weight: int = Field(
        default=8, ge=1, description="Every n-th read of the queue takes batch requests first"
    )
    maintenance_s: float = Field(default=5.0, gt=0)
    pod_name: str = Field(
        default="", description="Of this worker, to annotate with its load; empty: no Kubernetes"
    )
    kubernetes_api: str = "https://kubernetes.default.svc"
    kubernetes_credentials: Path = Field(
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="Directory with namespace, token and ca.crt",
    )


class TextWorkerSettings(WorkerSettings):
    """The text worker."""

    health_port: int = Field(default=9101, ge=0, le=65535)
    max_model_len: int | None = Field(default=None, ge=16)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: float32 on CPUs, bfloat16 on GPUs"
    )
    kv_cache_mib: int = Field(
        default=0, ge=0, description="0: 512 on CPUs, what is left of its share on a GPU"
    )
    gpu_memory_utilization: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Of a GPU's memory; 0: what the memory plan leaves beside an image worker",
    )
    image_concurrency: int = Field(
        default=_IMAGE_CONCURRENCY,
        ge=0,
        description="Images at a time of an image worker on the same GPU; 0: none is there",
    )
    tensor_parallel_size: int = Field(
        default=1, ge=1, description="GPUs that hold the model together"
    )
    num_hosts: int = Field(default=1, ge=1, description="On which these GPUs are, in equal numbers")
    host_rank: int = Field(default=0, ge=0, description="This host's number; 0 runs the engine")
    leader_address: str = Field(
        default="127.0.0.1:29501", pattern=r"^\S+:\d+$", description="Of host 0"
    )
    compile: bool = False
    kernel: Literal["auto", "torch", "cpp", "triton"] = "auto"
    flush_interval_s: float = Field(
        default=0.0, ge=0, description="Shortest time between two appends of this worker to Redis"
    )

    @model_validator(mode="after")
    def _hosts_share_the_ranks(self) -> Self:
        if self.tensor_parallel_size % self.num_hosts:
            raise ValueError("num_hosts must divide tensor_parallel_size")
        if self.host_rank >= self.num_hosts:
            raise ValueError("host_rank must be less than num_hosts")
        return self


class ImageWorkerSettings(WorkerSettings):
    """The image worker."""

    health_port: int = Field(default=9102, ge=0, le=65535)
    concurrency: int = Field(
        default=_IMAGE_CONCURRENCY,
        ge=1,
        validation_alias=AliasChoices("MMI_IMAGE_CONCURRENCY", "MMI_CONCURRENCY"),
    )
    image_backend: Literal["auto", "torch", "onnxruntime", "tensorrt"] = Field(
        default="auto", description="auto: the fastest that computes correctly on this machine"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    warm_up: Numbers = Field(
        default=(1,), description="Numbers of images of which steps are made ready and compiled"
    )
    image_fallback: bool = Field(
        default=True, description="Use torch where the backend cannot run; false: refuse to start"
    )
    image_memory_mib: int = Field(
        default=0, ge=0, description="For unfinished images; 0: what a GPU has left but for 1 GiB"
    )
    engines: Path | None = Field(default=None, description="Directory that mmi compile wrote")
    progress_interval_s: float = Field(default=0.1, ge=0)
