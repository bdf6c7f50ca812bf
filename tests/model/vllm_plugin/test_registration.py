from __future__ import annotations

from types import SimpleNamespace

import pytest

from model.config.presets import preset
from model.vllm_plugin.registration import (
    PENALTIES,
    SCHEDULER,
    SLOT_PENALTIES,
    InterleavedEngineConfig,
)

IMAGE = preset("tiny").num_img_token


def settings(
    num_batched: int, stages: int = 1, scheduler: str | None = None, v2: bool = False
) -> SimpleNamespace:
    hf_config = SimpleNamespace(interleaved=preset("tiny"))
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(
            scheduler_cls=scheduler, max_num_seqs=8, max_num_batched_tokens=num_batched
        ),
        model_config=SimpleNamespace(hf_config=hf_config, logits_processors=None),
        use_v2_model_runner=v2,
        compilation_config=SimpleNamespace(splitting_ops=None, _attention_ops=["attention"]),
        parallel_config=SimpleNamespace(pipeline_parallel_size=stages),
    )


def test_our_scheduler_is_the_default() -> None:
    chosen = settings(8 + IMAGE)
    InterleavedEngineConfig.verify_and_update_config(chosen)
    assert chosen.scheduler_config.scheduler_cls == SCHEDULER
    own = settings(8 + IMAGE, scheduler="another.Scheduler")
    InterleavedEngineConfig.verify_and_update_config(own)
    assert own.scheduler_config.scheduler_cls == "another.Scheduler"


@pytest.mark.parametrize(("v2", "processor"), [(False, PENALTIES), (True, SLOT_PENALTIES)])
def test_each_model_runner_has_its_own_logits_processor(v2: bool, processor: str) -> None:
    chosen = settings(8 + IMAGE, v2=v2)
    InterleavedEngineConfig.verify_and_update_config(chosen)
    assert chosen.model_config.logits_processors == [processor]


def test_a_step_must_hold_an_image() -> None:
    with pytest.raises(ValueError, match=f"at least max_num_seqs \\+ {IMAGE} = {8 + IMAGE}"):
        InterleavedEngineConfig.verify_and_update_config(settings(7 + IMAGE))


def test_pipelines_are_refused() -> None:
    with pytest.raises(ValueError, match="pipeline parallelism"):
        InterleavedEngineConfig.verify_and_update_config(settings(99 + IMAGE, stages=2))
