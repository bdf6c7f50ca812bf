"""vLLM's CUDA platform and GPU worker on CPU tensors, with Triton's kernels interpreted.

`install` comes before the first import of vLLM, in a process of its own: Triton decides at import
whether it interprets, vLLM which platform it is on.
"""

from __future__ import annotations

import os
import sys
import types

from tests.model.engine.text.gpu import accelerator

# Modules that need vLLM's build for CUDA, or torchvision, which this environment lacks, and the
# functions that are imported from them. None is called here but the warm-up, which does nothing.
_ABSENT = {
    "vllm._C_stable_libtorch": (),
    "vllm._moe_C_stable_libtorch": (),
    "vllm.model_executor.warmup.kernel_warmup": ("kernel_warmup",),
    "vllm.vllm_flash_attn": (
        "compile_flash_attn_varlen_func_from_specs",
        "flash_attn_varlen_func",
        "get_scheduler_metadata",
    ),
}
# Operators of vLLM that CUDA kernels implement are computed by PyTorch.
NATIVE = {
    "attention_config": {"backend": "TRITON_ATTN"},
    "compilation_config": {"custom_ops": ["none"]},
    "kernel_config": {
        "enable_jit_warmup": False,
        "ir_op_priority": {"rms_norm": ["native"], "fused_add_rms_norm": ["native"]},
    },
    "worker_cls": "tests.model.engine.text.gpu.worker.InterpretedWorker",
}


def install(runner: int, interpret: bool = True) -> None:
    """Make this process and those that it forks a GPU machine with vLLM's model runner 1 or 2."""
    assert "vllm" not in sys.modules
    os.environ.update(
        CUDA_VISIBLE_DEVICES="",  # So vLLM takes Triton although no driver is active yet.
        TORCHDYNAMO_DISABLE="1",
        TRITON_INTERPRET=str(int(interpret)),
        VLLM_NO_USAGE_STATS="1",
        VLLM_USE_V2_MODEL_RUNNER=str(runner - 1),
        VLLM_WORKER_MULTIPROC_METHOD="fork",
    )
    for name, functions in _ABSENT.items():
        module = sys.modules[name] = types.ModuleType(name)
        vars(module).update(dict.fromkeys(functions, lambda *_: None))
    import vllm.platforms as platforms

    platforms.vllm_version_matches_substr = lambda _: False  # The wheel for CPUs says `cpu`.
    from tests.model.engine.text.gpu.card import InterpretedPlatform

    platforms.current_platform = InterpretedPlatform()
    accelerator.install()
    _replace_cuda_functions()


def _replace_cuda_functions() -> None:
    """Functions of the compiled extensions, and one that Triton's interpreter cannot run."""
    from vllm import _custom_ops
    from vllm.utils import torch_utils
    from vllm.v1.sample.ops import topk_topp_sampler as sampler

    sampler.apply_top_k_top_p_triton = sampler.apply_top_k_top_p_pytorch
    torch_utils.get_accelerator_view_from_cpu_tensor = lambda tensor: tensor
    for name in ("scaled_mm_supports_fp8", "scaled_mm_supports_block_fp8", "group_gemm_supported"):
        setattr(_custom_ops, f"cutlass_{name}", lambda *_: False)
