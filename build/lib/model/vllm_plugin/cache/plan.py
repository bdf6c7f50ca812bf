"""Which images each token of a step sees, derived from the paged cache alone.

Legend: T tokens of the step, R requests, L positions of the longest request, I images, W blocks.

The cache stores token-local facts only (text, placeholder or begin of sequence). A step writes
all of its facts before it reads any, and derives everything else from them. So vLLM may preempt,
resume, share and evict blocks without anything to keep or move, and a prefix hit on blocks that
another request computes in the same step reads the right facts.
"""

from __future__ import annotations

import torch

from model.synchronizer.geometry import Sight
from model.vllm_plugin.cache.metadata import StepMetadata

TEXT, IMAGE, BOS = 0, 1, 2


def token_classes(input_ids_T: torch.Tensor, image_id: int, bos_id: int) -> torch.Tensor:
    """The class of each token, [T]."""
    return (input_ids_T == image_id) * IMAGE + (input_ids_T == bos_id) * BOS


def plan_step(
    classes_NC: torch.Tensor,
    metadata: StepMetadata,
    positions_T: torch.Tensor,
    max_images: int,
    block_size: int,
) -> Sight:
    """The sight of a step whose token classes have been written to the cache rows `classes_NC`."""
    device = classes_NC.device
    table_RW = metadata.block_table.long()
    place_L = torch.arange(metadata.max_seq_len, device=device)
    slots_RL = table_RW[:, place_L // block_size] * block_size + place_L % block_size
    class_RL = classes_NC[:, 0][slots_RL]
    class_RL = class_RL.masked_fill(place_L >= metadata.seq_lens[:, None], TEXT)
    image_RL = class_RL == IMAGE
    starts_RL = image_RL.clone()
    starts_RL[:, 1:] &= ~image_RL[:, :-1]
    count_RL = starts_RL.cumsum(1)
    base_RL = (count_RL * (class_RL == BOS)).cummax(1).values
    # The place of a token that starts no image goes to a spare column.
    column_RL = torch.where(starts_RL, count_RL - 1, max_images).clamp_(max=max_images)
    image_start_RI = torch.zeros(len(table_RW), max_images + 1, dtype=torch.long, device=device)
    image_start_RI.scatter_(1, column_RL, place_L.expand_as(column_RL))
    token_T = torch.arange(metadata.num_tokens, device=device)
    ends_R = metadata.query_start_loc[1:].contiguous()
    request_T = torch.searchsorted(ends_R, token_T.to(ends_R.dtype), right=True)
    positions_T = positions_T[: metadata.num_tokens]
    return Sight(
        request_T=request_T,
        base_T=base_RL[request_T, positions_T],
        count_T=count_RL[request_T, positions_T],
        image_start_RI=image_start_RI,
        block_table_RW=table_RW,
        block_size=block_size,
        reference_P2=torch.full((1, 2), 0.5, device=device),
    )
