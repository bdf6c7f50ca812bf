"""The plan of a step agrees with the plain model's rules of who sees what."""

from __future__ import annotations

import torch

from model.config.schema import SpecialTokens
from model.text_decoder import context
from model.vllm_plugin.cache.metadata import StepMetadata
from model.vllm_plugin.cache.plan import plan_step, token_classes
from model.vllm_plugin.cache.token_bytes import CLASS_WIDTH

SPECIAL = SpecialTokens(1, 2, 0, 8, 9)
BLOCK, MAX_IMAGES = 4, 5
IMAGE = [8, 9, 9, 9]
SEQUENCES = [
    [1, 3, 4, *IMAGE, 5, *IMAGE, 6, 7, *IMAGE, 3],
    [1, *IMAGE, 3, 1, 4, *IMAGE, 5, 6],  # A second document, which does not see the first's image.
    [1, 3, 4, 5],
    [1, *IMAGE, *IMAGE, *IMAGE, *IMAGE, *IMAGE, 3, 8],
]


def paged_step(done: list[int]) -> tuple[torch.Tensor, StepMetadata, torch.Tensor, torch.Tensor]:
    """Classes of all sequences in shuffled blocks, and a step that computes what is not `done`."""
    longest = max(map(len, SEQUENCES))
    width = -(-longest // BLOCK)
    table_RW = torch.randperm(len(SEQUENCES) * width, generator=torch.Generator().manual_seed(0))
    table_RW = table_RW.view(len(SEQUENCES), width)
    # What no sequence wrote must not matter: all of it looks like an image.
    classes_NC = torch.ones(table_RW.numel() * BLOCK, CLASS_WIDTH)
    for row, sequence in enumerate(SEQUENCES):
        for place, kind in enumerate(token_classes(torch.tensor(sequence), 9, 1)):
            classes_NC[table_RW[row, place // BLOCK] * BLOCK + place % BLOCK] = kind
    lengths = [len(sequence) for sequence in SEQUENCES]
    new = [length - before for length, before in zip(lengths, done, strict=True)]
    positions_T = torch.cat([torch.arange(d, n) for d, n in zip(done, lengths, strict=True)])
    rows_T = torch.repeat_interleave(torch.arange(len(new)), torch.tensor(new))
    metadata = StepMetadata(
        num_tokens=sum(new),
        query_start_loc=torch.tensor([0, *torch.tensor(new).cumsum(0)], dtype=torch.int32),
        seq_lens=torch.tensor(lengths, dtype=torch.int32),
        max_seq_len=longest,
        block_table=table_RW.int(),
        slot_mapping=torch.empty(0),
    )
    return classes_NC, metadata, positions_T, rows_T


def check(done: list[int]) -> None:
    classes_NC, metadata, positions_T, rows_T = paged_step(done)
    plan = plan_step(classes_NC, metadata, positions_T, MAX_IMAGES, BLOCK)
    assert plan.request_T.tolist() == rows_T.tolist()
    for token, (row, place) in enumerate(zip(rows_T.tolist(), positions_T.tolist(), strict=True)):
        ids_1L = torch.tensor([SEQUENCES[row]])
        starts = [at + 1 for at, token_id in enumerate(SEQUENCES[row][:-1]) if token_id == 8]
        seen_I = context.visible_images(ids_1L, torch.tensor([len(starts)]), SPECIAL)[0, place]
        base, count = int(plan.base_T[token]), int(plan.count_T[token])
        assert list(range(base, count)) == seen_I.nonzero().view(-1).tolist()
        assert plan.image_start_RI[row, base:count].tolist() == starts[base:count]


def test_prefill_of_whole_prompts() -> None:
    check([0] * len(SEQUENCES))


def test_decoding_and_chunks_mixed() -> None:
    check([len(SEQUENCES[0]) - 1, 7, 3, 13])


def test_padding_behind_the_tokens_is_ignored() -> None:
    classes_NC, metadata, positions_T, _ = paged_step([0] * len(SEQUENCES))
    padded_T = torch.cat((positions_T, torch.full((7,), 10**6)))
    plan = plan_step(classes_NC, metadata, padded_T, MAX_IMAGES, BLOCK)
    assert len(plan.count_T) == metadata.num_tokens
