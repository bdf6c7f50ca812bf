"""Stock vLLM gets the same Llama: its weights, its sizes, and prompts of the same length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.bench.text.served import parameters, stock_input, write_llama
from model.bench.text.workload import Workload
from model.checkpoint import load, seeded
from model.engine.text.options import TextEngineOptions
from model.engine.text.prompt import PromptBuilder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded.create("micro", tmp_path_factory.mktemp("bench") / "micro")


def test_the_language_model_is_written_without_synchronizers(
    checkpoint: Path, tmp_path: Path
) -> None:
    write_llama(TextEngineOptions(checkpoint), tmp_path, "float32")
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["architectures"] == ["LlamaForCausalLM"] and "mm_interleaved" not in document
    written = load_file(tmp_path / "model.safetensors")
    ours = dict(load.iter_tensors(checkpoint, ("mm_decoder.", "text_decoder.")))
    assert torch.equal(written["lm_head.weight"], ours["text_decoder.head.weight"])
    layer = "layers.0.self_attn.q_proj.weight"
    assert torch.equal(written[f"model.{layer}"], ours[f"mm_decoder.{layer}"])
    assert not [name for name in written if "cross_attn" in name or not name.endswith("weight")]


async def test_stock_prompts_are_as_long_and_plain(checkpoint: Path) -> None:
    workload = Workload.make(checkpoint, 2, 6)
    builder = PromptBuilder(workload.config, workload.processor, 500)
    prompt = await builder.build(workload.contexts(0, 1)[0], False, ())
    ids = stock_input(prompt, workload)["prompt_token_ids"]
    assert len(ids) == len(prompt.token_ids)
    assert max(ids) < workload.config.llm.vocab_size


def test_requests_end_after_their_number_of_tokens() -> None:
    params = parameters(5, (1, 2))
    assert (params.max_tokens, params.temperature, params.ignore_eos) == (5, 0, True)
    assert params.logit_bias == {1: -100, 2: -100}
