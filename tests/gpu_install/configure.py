"""Imports what a GPU worker imports, and configures the text engine, on a machine without a driver.

usage: configure.py DRIVER_LIBRARY CHECKPOINT DIRECTORY

NVML is replaced by one that reports a card. No kernel runs. Prints what was configured as JSON.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

CARD_BYTES = 80 << 30
# vLLM's compiled extensions, and what its GPU worker and FlashInfer import late.
MODULES = (
    "torchvision",
    "flashinfer",
    "vllm._C_stable_libtorch",
    "vllm._moe_C_stable_libtorch",
    "vllm.vllm_flash_attn",
    "vllm.v1.worker.gpu_worker",
    "vllm.v1.worker.gpu_model_runner",
    "vllm.v1.worker.gpu.model_runner",
    "model.synchronizer.kernels.triton",
    "model.vllm_plugin.model",
    "model.engine.image.engine",
    "service.workers.text.worker",
    "service.workers.image.worker",
)


def nvml() -> types.ModuleType:
    """An NVML with one card."""
    module = types.ModuleType("vllm.third_party.pynvml")
    memory = types.SimpleNamespace(total=CARD_BYTES, free=CARD_BYTES, used=0)
    answers: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetCudaComputeCapability": (9, 0),
        "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetUUID": "GPU-0",
        "nvmlDeviceGetMemoryInfo": memory,
    }
    for name, answer in answers.items():
        setattr(module, name, lambda *_, answer=answer: answer)
    module.NVMLError = type("NVMLError", (Exception,), {})  # type: ignore[attr-defined]
    return module


def main(driver: str, checkpoint: Path, directory: Path) -> None:
    ctypes.CDLL(driver, mode=ctypes.RTLD_GLOBAL)
    importlib.import_module("vllm.third_party")
    sys.modules["vllm.third_party.pynvml"] = nvml()
    import torch
    import triton.backends

    torch.cuda.is_available = lambda: True
    triton.backends.backends["nvidia"].driver.is_active = staticmethod(lambda: True)
    for name in MODULES:
        importlib.import_module(name)
    print(json.dumps(configured(checkpoint, directory)))  # noqa: T201


def configured(checkpoint: Path, directory: Path) -> dict[str, Any]:
    """The engine's configuration, as vLLM completes it."""
    from vllm.platforms import current_platform

    from model.checkpoint import store
    from model.engine.text.options import TextEngineOptions
    from model.engine.text.startup.vllm import engine_arguments

    options = TextEngineOptions(checkpoint, cache_dir=directory)
    arguments = engine_arguments(options, store.load_config(checkpoint))
    config = arguments.create_engine_config()
    return {
        "platform": "cuda" if current_platform.is_cuda() else current_platform.device_name,
        "runner": 2 if config.use_v2_model_runner else 1,
        "dtype": str(config.model_config.dtype),
        "share": config.cache_config.gpu_memory_utilization,
        "scheduler": config.scheduler_config.scheduler_cls,
        "logits_processors": config.model_config.logits_processors,
        "graphs_are_split_at": config.compilation_config.splitting_ops,
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
