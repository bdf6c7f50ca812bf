"""The published algorithm in plain PyTorch: a loop over a batch with a key/value cache.

Legend: B batch, L queries, I images, V positions of an image's maps, H heads, S maps, P points,
D width.

Same weights and same sums as the plain model, in the published order and at the published cost:
for every generated token, each layer with a synchronizer normalises and projects all features of
all images again, sends the query through its linear maps once per image, and samples by
`grid_sample`. The Llama around it is the plain model's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.bench.processes import cpu_seconds, peak_memory_mib
from model.bench.text.result import ServedBatch
from model.bench.text.workload import Workload
from model.checkpoint import load
from model.engine.text.options import TextEngineOptions
from model.mm_interleaved import TEXT, MMInterleaved
from model.segments import Segment
from model.synchronizer.kernels.grid import sample_by_grid
from model.text_decoder import context
from model.text_decoder.text_decoder import Cache, ImageAttention, VisibleImages
from model.visual_tokenizer.visual_tokenizer import VisualFeatures


class PublishedImageAttention(nn.Module):
    """Replaces the synchronizer of a layer; takes raw features in place of projected values."""

    def __init__(self, plain: ImageAttention) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, hidden_BLD: Tensor, features_BIVC: Tensor, visible_BLI: Tensor) -> Tensor:
        """The residual [B, L, D]."""
        plain, mmfs = self.plain, self.plain.attn
        H, S, P = mmfs.n_heads, len(mmfs.spatial_shapes), mmfs.n_points
        B, num_images = features_BIVC.shape[:2]
        L = hidden_BLD.shape[1]
        values_BNHd = mmfs.value_proj(plain.norm2(features_BIVC)).flatten(1, 2)
        values_BNHd = values_BNHd.unflatten(-1, (H, -1)).contiguous()
        query_BILD = plain.norm1(hidden_BLD).unsqueeze(1).repeat(1, num_images, 1, 1)
        query_BILD = mmfs.dynamic_offset_mask(query_BILD)
        seen_BLI = visible_BLI[:, -L:].long()
        relative_BLI = (seen_BLI.sum(-1, keepdim=True) + 1 - seen_BLI.cumsum(-1)) * seen_BLI
        query_BILD = query_BILD + mmfs.query_relpos(relative_BLI.transpose(1, 2))
        offsets = mmfs.sampling_offsets(query_BILD).view(B, num_images, L, H, 1, P, 2)
        logits = mmfs.attention_weights(query_BILD).view(B, num_images, L, H, S, P + 1)
        logits = logits[..., :P].masked_fill(seen_BLI.mT[..., None, None, None] == 0, -10000.0)
        # The slots of the ignore token sum to one slot with logit 0.
        logits_BLHN = logits.permute(0, 2, 3, 1, 4, 5).reshape(B, L, H, -1)
        weights_BLHN = F.pad(logits_BLHN, (0, 1)).softmax(-1)
        places = 0.5 + offsets.expand(-1, -1, -1, -1, S, -1, -1) / mmfs.base_spatial_shape
        sampled_BLD = sample_by_grid(
            values_BNHd,
            [(side, side) for side in mmfs.spatial_shapes] * num_images,
            places.permute(0, 2, 3, 1, 4, 5, 6).flatten(3, 4),
            weights_BLHN[..., :-1].view(B, L, H, num_images * S, P),
        )
        ignored_BLD = (weights_BLHN[..., -1:] * mmfs.ignore_token.view(H, -1)).flatten(2)
        return mmfs.output_proj(sampled_BLD + ignored_BLD) * plain.gate.tanh()


class PublishedLoop:
    """Greedy decoding of a batch, all sequences step by step together."""

    def __init__(self, options: TextEngineOptions, workload: Workload) -> None:
        dtype = getattr(torch, options.dtype)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: MMInterleaved = load.load_model(options.checkpoint, TEXT, dtype, self.device)
        for layer in model.mm_decoder.layers:
            if isinstance(layer.llama_cross_attn, ImageAttention):
                layer.llama_cross_attn = PublishedImageAttention(layer.llama_cross_attn)
        self.model, self.workload = model, workload

    async def serve(self, contexts: Sequence[tuple[Segment, ...]], num_tokens: int) -> ServedBatch:
        """Serve one batch; blocks the event loop, in which nothing else runs."""
        return self.generate(contexts, num_tokens)

    async def stop(self) -> None:
        pass

    @torch.inference_mode()
    def generate(self, contexts: Sequence[tuple[Segment, ...]], num_tokens: int) -> ServedBatch:
        """Prefill, then one token of each sequence per step."""
        start = time.perf_counter()
        ids_BL, mask_BL, visual, counts_B = self._inputs(contexts)
        model, special, cache = self.model, self.model.config.special_tokens, Cache()
        features_BIVC = self._features(visual, counts_B)
        values = (features_BIVC,) * len(model.config.synchronizer_layers)
        visible_BLI = context.visible_images(ids_BL, counts_B, special)
        embeds_BLD = model.embed(ids_BL, visual)
        positions_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)
        arrivals, tokens, cpu = [], [], 0.0
        for _ in range(num_tokens):
            images = VisibleImages(values, visible_BLI)
            hidden_BLD = model.mm_decoder(embeds_BLD, images, mask_BL, positions_BL, cache)
            logits_B1V = model.text_decoder(hidden_BLD[:, -1:])
            logits_B1V[..., self.workload.unwanted] -= 100.0
            token_B1 = logits_B1V.argmax(-1)
            tokens.append(token_B1[:, 0].tolist())  # Waits for a GPU.
            arrivals.append(time.perf_counter())
            cpu = cpu or cpu_seconds()
            embeds_BLD = model.mm_decoder.embed_tokens(token_B1)
            mask_BL = F.pad(mask_BL, (0, 1), value=1)
            positions_BL = positions_BL[:, -1:] + 1
            visible_BLI = visible_BLI[:, -1:]
        ids = [list(row) for row in zip(*tokens, strict=True)]
        decode_cpu = cpu_seconds() - cpu
        return ServedBatch(start, [arrivals] * len(contexts), ids, decode_cpu, peak_memory_mib())

    def _inputs(
        self, contexts: Sequence[tuple[Segment, ...]]
    ) -> tuple[Tensor, Tensor, VisualFeatures, Tensor]:
        """Ids and attention mask [B, L] padded on the left, encoded images, images per row."""
        model = self.model
        prompts = [self.workload.processor.encode(c) for c in contexts]
        pixels = [self.workload.processor.pixels(i) for p in prompts for i in p.images]
        longest = max(len(prompt.input_ids) for prompt in prompts)
        padding = model.config.special_tokens.pad_token_id
        ids_BL = torch.full((len(prompts), longest), padding)
        mask_BL = torch.zeros_like(ids_BL)
        for row, prompt in enumerate(prompts):
            ids_BL[row, longest - len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
            mask_BL[row, longest - len(prompt.input_ids) :] = 1
        dtype = model.visual_tokenizer.pos_proj.weight.dtype
        visual = model.visual_tokenizer(torch.stack(pixels).to(self.device, dtype))
        counts_B = torch.tensor([len(prompt.images) for prompt in prompts])
        ids_BL, mask_BL, counts_B = (t.to(self.device) for t in (ids_BL, mask_BL, counts_B))
        return ids_BL, mask_BL, visual, counts_B

    def _features(self, visual: VisualFeatures, counts_B: Tensor) -> Tensor:
        """Raw features of each row's images, [B, I, V, C]."""
        sides = self.model.config.spatial_shapes
        maps = [m.flatten(2).transpose(1, 2) for m in visual.maps if m.shape[-1] in sides]
        return context.by_sequence(torch.cat(maps, 1), counts_B)
