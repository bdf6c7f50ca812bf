"""The official algorithm in plain PyTorch: a loop over a batch with a key/value cache.

Faithful in what it costs: each layer with a synchronizer normalises and projects all features of
all images again for every generated token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from model import context
from model.checkpoint import store
from model.engine.bench_text_requests import Workload
from model.engine.bench_text_result import Result, cpu_seconds
from model.engine.protocol import Segment
from model.mm_interleaved import TEXT, MMInterleaved
from model.text_decoder import Cache, VisibleImages


def measure_official(
    checkpoint: Path, workload: Workload, batches: Sequence[int], dtype: str
) -> list[Result]:
    """All batch sizes; one warm-up of two tokens before."""
    model = store.load_model(checkpoint, TEXT, dtype=getattr(torch, dtype))
    loop = OfficialLoop(model, workload)
    loop.run(workload.contexts(1), 2)
    results = []
    for batch in batches:
        contexts = workload.contexts(batch)
        start = time.perf_counter()
        arrivals = loop.run(contexts, workload.num_tokens)
        cpu = cpu_seconds() - loop.cpu_at_first_token
        results.append(Result.of("official", start, [arrivals] * batch, cpu))
    return results


class OfficialLoop:
    """Greedy decoding of a batch, all sequences in step."""

    def __init__(self, model: MMInterleaved, workload: Workload) -> None:
        self.model, self.workload = model, workload
        self.cpu_at_first_token = 0.0

    @torch.inference_mode()
    def run(self, contexts: Sequence[tuple[Segment, ...]], num_tokens: int) -> list[float]:
        """When each step's tokens were there, in seconds."""
        model, special = self.model, self.model.config.special_tokens
        prompts = [self.workload.processor.encode(c) for c in contexts]
        pixels = [self.workload.processor.pixels(i) for p in prompts for i in p.images]
        longest = max(len(prompt.input_ids) for prompt in prompts)
        ids_BL = torch.full((len(prompts), longest), special.pad_token_id)
        mask_BL = torch.zeros_like(ids_BL)
        for row, prompt in enumerate(prompts):  # Padding is on the left, as officially.
            ids_BL[row, longest - len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
            mask_BL[row, longest - len(prompt.input_ids) :] = 1
        visual = model.visual_tokenizer(torch.stack(pixels))
        counts_B = torch.tensor([len(prompt.images) for prompt in prompts])
        features_NVD = torch.cat(
            [
                map_NDss.flatten(2).transpose(1, 2)
                for map_NDss in visual.maps
                if map_NDss.shape[-1] in model.config.spatial_shapes
            ],
            1,
        )
        features_BIVD = context.by_sequence(features_NVD, counts_B)
        visible_BLI = context.visible_images(ids_BL, counts_B, special)
        return self._decode(ids_BL, mask_BL, visual, features_BIVD, visible_BLI, num_tokens)

    def _decode(
        self,
        ids_BL: torch.Tensor,
        mask_BL: torch.Tensor,
        visual: object,
        features_BIVD: torch.Tensor,
        visible_BLI: torch.Tensor,
        num_tokens: int,
    ) -> list[float]:
        """Prefill, then one token of each sequence per step."""
        model, cache, arrivals = self.model, Cache(), []
        embeds_BLD = model.embed(ids_BL, visual)  # type: ignore[arg-type]
        positions_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)
        for _ in range(num_tokens):
            values = model.mm_decoder.project_images(features_BIVD)
            hidden_BLD = model.mm_decoder(
                embeds_BLD, VisibleImages(values, visible_BLI), mask_BL, positions_BL, cache
            )
            token_B1 = model.text_decoder(hidden_BLD[:, -1:]).argmax(-1)
            arrivals.append(time.perf_counter())
            if len(arrivals) == 1:
                self.cpu_at_first_token = cpu_seconds()
            embeds_BLD = model.mm_decoder.embed_tokens(token_B1)
            mask_BL = torch.nn.functional.pad(mask_BL, (0, 1), value=1)
            positions_BL = positions_BL[:, -1:] + 1
            visible_BLI = visible_BLI[:, -1:]
        return arrivals
