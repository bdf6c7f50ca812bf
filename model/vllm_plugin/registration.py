"""Registers the model, its configuration and its scheduler with vLLM."""

from transformers import AutoConfig
from vllm import ModelRegistry
from vllm.config import VllmConfig
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.platforms import current_platform

from model.vllm_plugin.config import ARCHITECTURE, MODEL_TYPE, InterleavedHFConfig

SCHEDULER = "model.vllm_plugin.engine_core.scheduler.WholeImageScheduler"
# One for each of vLLM's model runners.
PENALTIES = "model.vllm_plugin.penalties:ResumedPenalties"
SLOT_PENALTIES = "model.vllm_plugin.penalties:ResumedSlotPenalties"
# Our operator reads what this step's tokens see, so CUDA graphs are split there, as at attention
# and its updates of the cache.
_CUT = ("vllm::unified_kv_cache_update", "vllm::unified_mla_kv_cache_update", "mmi::sample_images")


class InterleavedEngineConfig(VerifyAndUpdateConfig):  # type: ignore[misc]
    """Settings of the engine that the model needs to be correct."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Select our scheduler and logits processor, and split graphs.

        Raises:
            ValueError: a step could never hold an image, or there are pipeline stages.
        """
        scheduler = vllm_config.scheduler_config
        scheduler.scheduler_cls = scheduler.scheduler_cls or SCHEDULER
        model = vllm_config.model_config
        processor = SLOT_PENALTIES if vllm_config.use_v2_model_runner else PENALTIES
        model.logits_processors = [*(model.logits_processors or ()), processor]
        image = model.hf_config.interleaved.num_img_token
        least = scheduler.max_num_seqs + image
        if scheduler.max_num_batched_tokens < least:
            raise ValueError(
                f"max_num_batched_tokens must be at least max_num_seqs + {image} = {least}: "
                "an image is never split across steps"
            )
        compilation = vllm_config.compilation_config
        if not current_platform.is_cpu() and compilation.splitting_ops is None:
            compilation.splitting_ops = [*compilation._attention_ops, *_CUT]
        if vllm_config.parallel_config.pipeline_parallel_size > 1:
            raise ValueError("MM-Interleaved does not support pipeline parallelism")


def register_model() -> None:
    """Register once; vLLM may call plugins several times in one process."""
    AutoConfig.register(MODEL_TYPE, InterleavedHFConfig, exist_ok=True)
    MODELS_CONFIG_MAP[ARCHITECTURE] = InterleavedEngineConfig
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(
            ARCHITECTURE, "model.vllm_plugin.model:InterleavedForConditionalGeneration"
        )
