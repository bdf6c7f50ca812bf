"""Text generation as the published inference does it: greedy, sampling and beam search.

Legend: B sequences (beams included), L tokens, V vocabulary, O options, D width.

Semantics kept from there: the output starts with its own `<bos>`, which counts for `min_length` and
for the repetition penalty; the prompt counts for neither. `<eos>` and `<soi>` both stop and stay in
the output. Finished rows are padded. Every new token sees the images that the last token of the
prompt saw. Offline generation runs this module; serving has the text engine, whose reference this
is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.schema import SpecialTokens
from model.mm_interleaved import Batch, ImageConditions, MMInterleaved
from model.offline.beam_search import BeamSearch
from model.text_decoder.text_decoder import Cache, VisibleImages


@dataclass(frozen=True)
class TextGeneration:
    """Settings of a continuation. The defaults are the published ones.

    Attributes:
        max_length: number of new tokens at most.
        min_length: minimum length of the output, its `<bos>` included, before a stop.
        num_beams: more than 1 searches with beams, without sampling.
        use_nucleus_sampling: sample, after `temperature`, `top_k` and `top_p`.
        length_penalty: exponent of the length that divides the score of a beam.
    """

    max_length: int = 30
    min_length: int = 8
    num_beams: int = 5
    use_nucleus_sampling: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Refuse sampling with beams."""
        if self.use_nucleus_sampling and self.num_beams > 1:
            raise ValueError("beams are searched without sampling: use num_beams=1 to sample")


@dataclass
class _Decoder:
    """The state of a batch of sequences: prompt, then one token per step."""

    model: MMInterleaved
    images: VisibleImages
    mask_BK: Tensor
    cache: Cache

    @classmethod
    def start(cls, model: MMInterleaved, batch: Batch, copies: int) -> tuple[_Decoder, Tensor]:
        """Read the prompts; returns the decoder and the logits [B, V] of the first token."""
        mask_BL = batch.attention_mask_BL
        mask_BL = torch.ones_like(batch.text_ids_BL) if mask_BL is None else mask_BL
        cache = Cache()
        output = model(
            replace(batch, attention_mask_BL=mask_BL),
            positions_BL=_positions(mask_BL),
            cache=cache,
        )
        images = replace(output.images, visible_BLI=output.images.visible_BLI[:, -1:])
        decoder = cls(model, images, mask_BL, cache)
        decoder._repeat(copies)
        logits_BV: Tensor = model.text_decoder(output.hidden_BLD[:, -1])
        return decoder, logits_BV.repeat_interleave(copies, 0)

    def step(self, ids_B: Tensor) -> Tensor:
        """Append one token to every sequence: logits [B, V] of the next."""
        self.mask_BK = F.pad(self.mask_BK, (0, 1), value=1)
        hidden_B1D = self.model.mm_decoder(
            self.model.mm_decoder.embed_tokens(ids_B.unsqueeze(1)),
            self.images,
            self.mask_BK,
            _positions(self.mask_BK)[:, -1:],
            self.cache,
        )
        return self.model.text_decoder(hidden_B1D[:, 0])

    def _repeat(self, copies: int) -> None:
        """Repeat the state for several beams of every sequence."""
        if copies == 1:
            return
        self.mask_BK = self.mask_BK.repeat_interleave(copies, 0)
        self.images = VisibleImages(
            tuple(values.repeat_interleave(copies, 0) for values in self.images.values),
            self.images.visible_BLI.repeat_interleave(copies, 0),
        )
        rows = torch.arange(len(self.mask_BK) // copies, device=self.mask_BK.device)
        self.cache.reorder(rows.repeat_interleave(copies))


@torch.no_grad()
def generate_texts(
    model: MMInterleaved,
    batch: Batch,
    options: TextGeneration,
    generator: torch.Generator | None = None,
    step_logits: list[Tensor] | None = None,
) -> Tensor:
    """Continue prompts, padded on the left.

    Args:
        model: the model.
        batch: prompts and their images.
        options: settings.
        generator: random numbers for sampling.
        step_logits: receives the raw logits [B, V] of every step, for tests.

    Returns:
        [B, L] ids: `<bos>`, the new tokens, padding behind.
    """
    special = model.config.special_tokens
    if options.num_beams > 1:
        return _beam_search(model, batch, options)
    decoder, logits_BV = _Decoder.start(model, batch, copies=1)
    output_BL = torch.full_like(batch.text_ids_BL[:, :1], special.bos_token_id)
    running_B = torch.ones_like(output_BL[:, 0], dtype=torch.bool)
    stops = _stops(special, output_BL.device)
    for number in range(options.max_length):
        if number:
            logits_BV = decoder.step(output_BL[:, -1])
        if step_logits is not None:
            step_logits.append(logits_BV)
        scores_BV = _process(logits_BV, output_BL, options, stops)
        ids_B = _choose(scores_BV, options, generator)
        ids_B = ids_B.where(running_B, special.pad_token_id)
        output_BL = torch.cat((output_BL, ids_B[:, None]), 1)
        running_B = running_B & ~torch.isin(ids_B, stops)
        if not bool(running_B.any()):
            break
    return output_BL


@torch.no_grad()
def generate_scores(
    model: MMInterleaved, prompt: Batch, option_ids_OL: Tensor, option_mask_OL: Tensor
) -> Tensor:
    """Log-likelihood of each option as the continuation of one prompt: [O].

    Args:
        model: the model.
        prompt: one sequence, without padding.
        option_ids_OL: the continuations, padded on the right.
        option_mask_OL: 0 for their padding.
    """
    num, length = len(option_ids_OL), prompt.text_ids_BL.shape[1]
    visual = model.visual_tokenizer(prompt.pixels_N3SS)
    ids_OK = torch.cat((prompt.text_ids_BL.expand(num, -1), option_ids_OL), 1)
    mask_OK = F.pad(option_mask_OL, (length, 0), value=1)
    copies = torch.arange(len(visual), device=ids_OK.device).repeat(num)
    visual = visual.select(copies)
    batch = Batch(ids_OK, prompt.pixels_N3SS[copies], prompt.num_images_B.repeat(num), mask_OK)
    images = model.visible_images(batch, visual)
    hidden_OKD = model.mm_decoder(model.embed(ids_OK, visual), images, mask_OK)
    logits_OLV = model.text_decoder(hidden_OKD[:, length - 1 : -1])
    chosen_OL = logits_OLV.log_softmax(-1).gather(-1, option_ids_OL[..., None]).squeeze(-1)
    return (chosen_OL * option_mask_OL).sum(-1)


@torch.no_grad()
def image_conditions(
    model: MMInterleaved, batch: Batch, target_indices: Tensor | None = None
) -> ImageConditions:
    """The image decoder's input for images of a batch (all by default)."""
    conditions = model.image_conditions(model(batch), batch)
    return conditions if target_indices is None else conditions.select(target_indices)


def _positions(mask_BL: Tensor) -> Tensor:
    """Positions that skip padding; padding itself is at 1."""
    return (mask_BL.long().cumsum(1) - 1).masked_fill(mask_BL == 0, 1)


def _stops(special: SpecialTokens, device: torch.device) -> Tensor:
    """Ids that end a text."""
    return torch.tensor([special.eos_token_id, special.soi_token_id], device=device)


def _process(
    scores_BV: Tensor, output_BL: Tensor, options: TextGeneration, stops: Tensor
) -> Tensor:
    """Apply the repetition penalty, and mask stops before the minimum length."""
    if options.repetition_penalty != 1.0:
        seen_BL, penalty = scores_BV.gather(1, output_BL), options.repetition_penalty
        seen_BL = torch.where(seen_BL < 0, seen_BL * penalty, seen_BL / penalty)
        scores_BV = scores_BV.scatter(1, output_BL, seen_BL)
    if output_BL.shape[1] < options.min_length:
        scores_BV = scores_BV.index_fill(1, stops, -torch.inf)
    return scores_BV


def _choose(
    scores_BV: Tensor, options: TextGeneration, generator: torch.Generator | None
) -> Tensor:
    """The next id of every sequence: the best one, or a sampled one."""
    if not options.use_nucleus_sampling:
        return scores_BV.argmax(-1)
    scores_BV = scores_BV / options.temperature
    if options.top_k:
        kept_BQ = scores_BV.topk(min(options.top_k, scores_BV.shape[1])).values
        scores_BV = scores_BV.masked_fill(scores_BV < kept_BQ[:, -1:], -torch.inf)
    if options.top_p < 1.0:
        sorted_BV, order_BV = scores_BV.sort(-1)
        drop_BV = sorted_BV.softmax(-1).cumsum(-1) <= 1 - options.top_p
        drop_BV[:, -1] = False
        scores_BV = scores_BV.masked_fill(drop_BV.scatter(1, order_BV, drop_BV), -torch.inf)
    return scores_BV.softmax(-1).multinomial(1, generator=generator).squeeze(1)


def _beam_search(model: MMInterleaved, batch: Batch, options: TextGeneration) -> Tensor:
    """Continue prompts with the most likely text that the beams find."""
    special, num = model.config.special_tokens, len(batch.text_ids_BL)
    decoder, logits_BV = _Decoder.start(model, batch, copies=options.num_beams)
    stops = _stops(special, logits_BV.device)
    search = BeamSearch(num, options.num_beams, options.length_penalty, stops, special.pad_token_id)
    output_BL = torch.full_like(decoder.mask_BK[:, :1], special.bos_token_id)
    for number in range(options.max_length):
        if number:
            logits_BV = decoder.step(output_BL[:, -1])
        scores_BV = _process(logits_BV.log_softmax(-1), output_BL, options, stops)
        rows_B, ids_B = search.advance(scores_BV, output_BL)
        decoder.cache.reorder(rows_B)
        output_BL = torch.cat((output_BL[rows_B], ids_B[:, None]), 1)
        if search.done:
            break
    return search.finish(output_BL, options.max_length + 1)
