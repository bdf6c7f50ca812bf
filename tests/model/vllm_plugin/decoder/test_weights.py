from __future__ import annotations

from pathlib import Path

import torch

from model.checkpoint import load, seeded, store
from model.vllm_plugin.decoder.weights import OfficialWeights


def test_a_checkpoint_is_sorted_completely(tmp_path: Path) -> None:
    checkpoint = seeded.create("tiny", tmp_path)
    config = store.load_config(checkpoint)
    official = OfficialWeights(config)
    tensors = dict(load.iter_tensors(checkpoint))
    llama = dict(official.llama(tensors.items()))
    assert set(official.synchronizers) == set(config.synchronizer_layers)
    assert all("gate" in layer for layer in official.synchronizers.values())
    assert official.vision and not any(name.startswith("visual") for name in official.vision)
    soi = config.special_tokens.soi_token_id
    embedding_VD = tensors["mm_decoder.embed_tokens.weight"].float()
    added_D = llama["model.embed_tokens.weight"][soi] - embedding_VD[soi]
    torch.testing.assert_close(added_D, tensors["soi_token"].float().view(-1), atol=1e-6, rtol=0)
    head_V = tensors["text_decoder.head.bias"] + 0.0
    head_V[-len(tensors["text_decoder.head_new.bias"]) :] += tensors["text_decoder.head_new.bias"]
    torch.testing.assert_close(llama["lm_head.bias"], head_V)
