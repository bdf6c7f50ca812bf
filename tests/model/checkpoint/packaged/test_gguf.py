"""Language models from GGUF files: transformers reads the same weights and gets the same logits."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from model.checkpoint.packaged.gguf import GgufLanguageModel
from model.text_decoder.text_decoder import LanguageModel, VisibleImages
from tests.model.checkpoint import small_llama
from tests.model.checkpoint.small_llama import SIZES


def test_sizes_and_tokenizer_come_from_the_file(gguf_path: Path) -> None:
    read = GgufLanguageModel(gguf_path)
    assert read.config == SIZES
    assert read.chat_template == small_llama.CHAT_TEMPLATE
    tokenizer = read.tokenizer()
    assert tokenizer.encode(" a <|im_end|>").ids[0] == SIZES.vocab_size - 1
    assert tokenizer.encode("<|im_end|>").ids == [2]
    text = "Pip’s 12 boats"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tensors_are_those_of_transformers(gguf_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32
    ).model.state_dict()
    ours = dict(GgufLanguageModel(gguf_path).tensors())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_logits_are_those_of_transformers(gguf_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32
    ).eval()
    ids_BL = torch.arange(3, 40)[None]
    ours = LanguageModel(small_llama.config_around(synchronize_text=False))
    ours.load_state_dict(dict(GgufLanguageModel(gguf_path).tensors()))
    nothing = VisibleImages((), torch.zeros(1, ids_BL.shape[1], 0, dtype=torch.bool))
    with torch.no_grad():
        hidden_BLD = ours(ours.embed_tokens(ids_BL), nothing)
        logits_BLV = hidden_BLD @ ours.embed_tokens.weight.T
        wanted_BLV = theirs(input_ids=ids_BL).logits
    scale = wanted_BLV.abs().max()
    assert (logits_BLV - wanted_BLV).abs().max() < 1e-4 * scale
