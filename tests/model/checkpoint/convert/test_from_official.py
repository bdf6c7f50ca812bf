"""Converting a synthetic official checkpoint of the recorded tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.checkpoint import load, store
from model.checkpoint.convert import adapter
from model.checkpoint.convert.from_official import ConvertOptions, convert
from model.checkpoint.store import CheckpointError
from tests.model import golden
from tests.model.checkpoint.convert import official_files as official
from tests.model.checkpoint.convert.official_files import assert_same, read_all, silent


def test_every_tensor_arrives_bit_for_bit(converted: Path) -> None:
    assert_same(read_all(converted), golden.state_dict())
    assert len(list(converted.glob("model-*.safetensors"))) == 3
    store.verify(converted)


def test_converted_checkpoint_computes_the_recorded_tokens(converted: Path) -> None:
    model = load.load_model(converted, components=("visual_tokenizer",))
    recorded = golden.tensors("visual_tokenizer")
    pixels = golden.images()[recorded["in/image_index"]]
    with torch.no_grad():
        tokens = model.visual_tokenizer(pixels).tokens_NTD
    golden.assert_close("tokens", tokens, recorded["out/vis_embed"], 2e-4)


def test_other_options_start_over(layout: Path, tmp_path: Path) -> None:
    convert(layout, tmp_path, ConvertOptions(), silent)
    convert(layout, tmp_path, ConvertOptions(dtype=torch.bfloat16), silent)
    for name, tensor in read_all(tmp_path).items():
        original = golden.state_dict()[name]
        if not original.is_floating_point():
            assert torch.equal(tensor, original)
        elif name.startswith(("image_decoder.decoder.vae.", "text_decoder.head_new.bias")):
            assert tensor.dtype == torch.float32
        elif not name.startswith(load.FLOAT32_PREFIXES):
            assert torch.equal(tensor, original.bfloat16())


def state_with(**changes: Tensor | None) -> dict[str, Tensor]:
    """The recorded state with keys added, replaced or (None) removed; `__` stands for a dot."""
    state = dict(golden.state_dict())
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    return state


def convert_state(root: Path, state: dict[str, Tensor], **options: object) -> Path:
    official.write_layout(root / "in", state, golden.config())
    settings = official.write_settings(root / "in/mm_inference.yaml", golden.config())
    convert(root / "in", root / "out", ConvertOptions(settings=settings, **options), silent)  # type: ignore[arg-type]
    return root / "out"


def test_unknown_and_missing_keys_are_named(tmp_path: Path) -> None:
    state = state_with(
        mm_decoder__layers__0__self_attn__extra=torch.zeros(1), context_feat_proj__bias=None
    )
    with pytest.raises(CheckpointError) as error:
        convert_state(tmp_path, state)
    assert "unknown key mm_decoder.layers.0.self_attn.extra" in str(error.value)
    assert "missing key context_feat_proj.bias" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_wrong_shape_is_named(tmp_path: Path) -> None:
    width = golden.config().llm.hidden_size
    with pytest.raises(CheckpointError, match=rf"soi_token: shape \[2, {width}\]"):
        convert_state(tmp_path, state_with(soi_token=torch.zeros(2, width)))


def test_optional_keys_are_left_out_and_computed(tmp_path: Path) -> None:
    position_ids = golden.state_dict()[adapter.POSITION_IDS]
    state = state_with(
        mm_decoder__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(16),
        visual_tokenizer__perceiver_resampler__blip2qformer__pooler__dense__bias=torch.zeros(48),
    )
    del state[adapter.POSITION_IDS]
    tensors = read_all(convert_state(tmp_path, state))
    assert set(tensors) == set(golden.state_dict())
    assert torch.equal(tensors[adapter.POSITION_IDS], position_ids)


def test_tensors_left_to_components_are_taken_from_them(tmp_path: Path) -> None:
    """A file without the frozen VAE, which lies in SD's directory under an older spelling."""
    state = golden.state_dict()
    vae = {k.removeprefix(adapter.VAE): v for k, v in state.items() if k.startswith(adapter.VAE)}
    older = {
        k.replace(".to_q.", ".query.")
        .replace(".to_k.", ".key.")
        .replace(".to_v.", ".value.")
        .replace(".to_out.0.", ".proj_attn."): v
        for k, v in vae.items()
    }
    assert set(older) != set(vae)
    rest = {k: v for k, v in state.items() if not k.startswith(adapter.VAE)}
    root = official.write_layout(tmp_path / "in", rest, golden.config())
    official.write_settings(root / "mm_inference.yaml", golden.config())
    torch.save(older, root / "assets/stabilityai/sd/vae/diffusion_pytorch_model.bin")
    convert(root, tmp_path / "out", ConvertOptions(), silent)
    assert_same(read_all(tmp_path / "out"), state)


def test_conversion_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Memory of its own, as the kernel counts it: mapped pages of a shard are not among it."""
    recorded = golden.config()
    special = replace(
        recorded.special_tokens, pad_token_id=99_999, soi_token_id=100_000, image_token_id=100_001
    )
    config = replace(
        recorded,
        llm=replace(recorded.llm, vocab_size=100_000),
        txt_vocab_size=100_002,
        special_tokens=special,
    )
    largest = 100_002 * config.llm.hidden_size * 4
    state = dict(golden.state_dict())
    for name in ("mm_decoder.embed_tokens.weight", "text_decoder.head.weight"):
        state[name] = torch.ones(100_002, config.llm.hidden_size)
    state["text_decoder.head.bias"] = torch.ones(100_002)
    root = official.write_layout(tmp_path / "in", state, golden.config(), num_shards=1)
    config.save(root / "mm_interleaved.json")
    del state
    held: list[int] = []

    def watch(_name: str, _done: int, _total: int) -> None:
        held.append(own_memory())

    convert(root, tmp_path / "out", ConvertOptions(tokenizer=False), watch)
    assert max(held) - held[0] < 2 * largest
    assert store.load_config(tmp_path / "out") == config


def own_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024
