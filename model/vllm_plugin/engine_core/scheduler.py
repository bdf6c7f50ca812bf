"""vLLM's scheduler with two rules that MM-Interleaved needs; for vLLM 0.32.

An image's placeholders are computed in one step: the first one samples the whole image, so all
features must be in the cache by then. And a resumed request gets back its image data, which vLLM
strips when a prefix hit covers the image.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.encoder_cache_manager import EncoderCacheManager
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request


class WholeImageScheduler(AsyncScheduler):  # type: ignore[misc]
    """Schedules images whole, and keeps their data with the request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Let the cache of encoded images hold `encoder_cache_images`."""
        super().__init__(*args, **kwargs)
        images = self.vllm_config.additional_config.get("encoder_cache_images", 0)
        config = self.vllm_config.model_config.hf_config.interleaved
        given: Any = self.encoder_cache_manager
        size = max(given.cache_size, images * config.num_img_token)
        self.encoder_cache_manager: Any = EncoderCacheManager(cache_size=size)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Plan a step; new requests carry the data of all of their images.

        The worker keeps what it receives here. A request that is preempted and resumed with a
        shorter prefix hit needs the stripped images again.
        """
        output = super().schedule(*args, **kwargs)
        for new in output.scheduled_new_reqs:
            if new.mm_features:
                new.mm_features = self.requests[new.req_id].mm_features
        return output

    def _try_schedule_encoder_inputs(
        self,
        request: Request,
        num_computed_tokens: int,
        num_new_tokens: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[list[int], int, int, list[int], list[int]]:
        """Shorten the chunk so that it cuts through no image."""
        allowed = whole_images(request, num_computed_tokens, num_new_tokens)
        return super()._try_schedule_encoder_inputs(
            request, num_computed_tokens, allowed, *args, **kwargs
        )


def whole_images(request: Request, start: int, length: int) -> int:
    """The largest chunk of at most `length` tokens from `start` that ends inside no image."""
    end: int = start + length
    for feature in request.mm_features:
        first: int = feature.mm_position.offset
        if first < end < first + feature.mm_position.length:
            return max(0, first - start)
    return length
