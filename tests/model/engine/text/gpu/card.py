"""vLLM's CUDA platform with a card whose memory is the host's.

Imported after `platform.install` has prepared the process.
"""

from __future__ import annotations

from typing import Any

from vllm.platforms.cpu import CpuPlatform
from vllm.platforms.cuda import NonNvmlCudaPlatform
from vllm.platforms.interface import DeviceCapability

from tests.model.engine.text.gpu import accelerator


class InterpretedPlatform(NonNvmlCudaPlatform):  # type: ignore[misc]
    """An H100 whose tensors lie in host memory."""

    device_type = "cpu"
    device_name = "cuda"
    dispatch_key = "CPU"
    dist_backend = "gloo"

    @classmethod
    def import_kernels(cls) -> None:
        CpuPlatform.import_kernels()

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
        return DeviceCapability(*accelerator.CAPABILITY)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return "interpreted"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return accelerator.TOTAL_BYTES

    @classmethod
    def device_count(cls) -> int:
        return 1

    @classmethod
    def num_compute_units(cls, device_id: int = 0) -> int:
        return accelerator.NUM_UNITS

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        return False

    @classmethod
    def set_device(cls, device: Any) -> None:
        pass

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        pass

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        base = "vllm.distributed.device_communicators.base_device_communicator"
        return f"{base}.DeviceCommunicatorBase"
