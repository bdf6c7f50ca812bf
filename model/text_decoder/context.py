"""Which tokens see which images and documents, as index arithmetic on token ids.

Legend: B batch, L tokens, I images of a sequence, N images of the whole batch, K context length,
D width.

A sequence may hold several documents, each begun by `<bos>`; an image is `<soi>` and its
placeholders. The k-th `<soi>` of a row belongs to its k-th image; a last `<soi>` without an image
asks for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.schema import SpecialTokens

IGNORED = -100


def visible_images(text_ids_BL: Tensor, num_images_B: Tensor, special: SpecialTokens) -> Tensor:
    """Which images each token sees: [B, L, I], boolean, I the largest number of a sequence.

    A token sees an image from the image's own first placeholder on, if both are in the same
    document.
    """
    is_soi_BL = text_ids_BL == special.soi_token_id
    largest = int(num_images_B.max()) if len(num_images_B) else 0
    index_I = torch.arange(largest, device=text_ids_BL.device)
    # Images begun strictly before a token, and before the document of the token.
    before_BL = is_soi_BL.cumsum(1) - is_soi_BL.long()
    bos_BL = nearest_bos(text_ids_BL, special)
    hidden_BL = before_BL.gather(1, bos_BL.clamp(min=0))
    begun_BLI = index_I < before_BL[..., None]
    current_BLI = index_I >= hidden_BL[..., None]
    exists_B1I = (index_I < num_images_B[:, None])[:, None]
    return begun_BLI & current_BLI & exists_B1I


def nearest_bos(text_ids_BL: Tensor, special: SpecialTokens) -> Tensor:
    """Column of the last `<bos>` at or before each token; -1 if there is none."""
    column_L = torch.arange(text_ids_BL.shape[1], device=text_ids_BL.device)
    bos_BL = column_L.expand_as(text_ids_BL).masked_fill(text_ids_BL != special.bos_token_id, -1)
    return bos_BL.cummax(1).values


def by_sequence(items_N: Tensor, num_images_B: Tensor) -> Tensor:
    """Distribute the images of a batch to its sequences, zeros behind: [B, I, ...]."""
    largest = int(num_images_B.max()) if len(num_images_B) else 0
    held_BI = torch.arange(largest, device=items_N.device) < num_images_B[:, None]
    if bool(held_BI.all()):
        return items_N.unflatten(0, held_BI.shape)
    out_BI = items_N.new_zeros(*held_BI.shape, *items_N.shape[1:])
    out_BI[held_BI] = items_N
    return out_BI


def image_starts(text_ids_BL: Tensor, special: SpecialTokens) -> tuple[Tensor, Tensor]:
    """Row and column of every `<soi>`, in reading order."""
    row_N, column_N = (text_ids_BL == special.soi_token_id).nonzero(as_tuple=True)
    return row_N, column_N


def image_contexts(
    hidden_BLD: Tensor,
    text_ids_BL: Tensor,
    special: SpecialTokens,
    bos_columns_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The hidden states before each image, the nearest token first.

    Args:
        hidden_BLD: final hidden states.
        text_ids_BL: their tokens.
        special: ids of the special tokens.
        bos_columns_N: where the context of each image begins; None means at the row's beginning.

    Returns:
        [N, K, D], from the image's `<soi>` backwards, zeros behind; and its extent [N, K], long.
    """
    row_N, column_N = image_starts(text_ids_BL, special)
    first_N = torch.zeros_like(column_N) if bos_columns_N is None else bos_columns_N
    longest = int((column_N - first_N).max()) + 1 if len(column_N) else 0
    source_NK = column_N[:, None] - torch.arange(longest, device=column_N.device)
    within_NK = source_NK >= first_N[:, None]
    context_NKD = hidden_BLD[row_N[:, None], source_NK.clamp(min=0)]
    return context_NKD * within_NK[..., None], within_NK.long()


def previous_images(
    text_ids_BL: Tensor,
    special: SpecialTokens,
    bos_columns_N: Tensor | None = None,
    num_given_B: Tensor | None = None,
) -> Tensor:
    """For each image the one whose maps it reads: of the same context, or -1: [N].

    Args:
        text_ids_BL: tokens.
        special: ids of the special tokens.
        bos_columns_N: where the context of each image begins; None means at the row's beginning.
        num_given_B: images before each row's answer, if answers have an anchor; without, each image
            reads the one before it.
    """
    row_N, column_N = image_starts(text_ids_BL, special)
    first_N = torch.zeros_like(column_N) if bos_columns_N is None else bos_columns_N
    index_N = torch.arange(len(row_N), device=row_N.device)
    begin_N = torch.searchsorted(row_N, row_N)  # The first image of each image's row.
    previous_N = index_N - 1
    if num_given_B is not None:
        previous_N = previous_N.minimum(begin_N + anchor_of(num_given_B)[row_N])
    in_context_N = column_N[previous_N.clamp(min=0)] >= first_N
    return torch.where((previous_N >= begin_N) & in_context_N, previous_N, -1)


def anchor_of(num_given_B: Tensor) -> Tensor:
    """The number of the image that an answer's images read: the last given, or its own first."""
    return (num_given_B - 1).clamp(min=0)


@dataclass(frozen=True)
class LabelRules:
    """Which tokens of a sequence are not learned, beyond the rules for special tokens.

    `prompt_lengths` tokens at the beginning (one number for all sequences or one each), and with
    `only_after_image` the text of a document before its first image.
    """

    prompt_lengths: int | Sequence[int] = 0
    only_after_image: bool = False


def training_labels(
    text_ids_BL: Tensor,
    attention_mask_BL: Tensor,
    special: SpecialTokens,
    rules: LabelRules = LabelRules(),
) -> Tensor:
    """Targets of tokens 1, 2, ...: [B, L - 1], -100 where nothing is to be learned.

    Not learned: padding, placeholders, `<bos>`, and `<soi>` straight after `<bos>`. Learned:
    `<soi>` after text, `<eos>`.
    """
    column_L = torch.arange(text_ids_BL.shape[1], device=text_ids_BL.device)
    lengths_B1 = torch.as_tensor(rules.prompt_lengths, device=column_L.device).reshape(-1, 1)
    ignored_BL = (column_L < lengths_B1) | (attention_mask_BL == 0)
    for token_id in (special.pad_token_id, special.image_token_id, special.bos_token_id):
        ignored_BL = ignored_BL | (text_ids_BL == token_id)
    is_soi_BL = text_ids_BL == special.soi_token_id
    after_bos_BL = F.pad(text_ids_BL == special.bos_token_id, (1, 0))[:, :-1]
    ignored_BL = ignored_BL | (is_soi_BL & after_bos_BL)
    if rules.only_after_image:
        soi_BL = column_L.where(is_soi_BL, -1).cummax(1).values
        ignored_BL = ignored_BL | (soi_BL < nearest_bos(text_ids_BL, special).clamp(min=0))
    return text_ids_BL.masked_fill(ignored_BL, IGNORED)[:, 1:]
