"""Converting a synthetic official checkpoint of the recorded tensors, both ways."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.checkpoint import load, store
from model.checkpoint.convert import adapter
from model.checkpoint.convert.command import add_arguments, run
from model.checkpoint.convert.from_official import ConvertOptions, convert, expected_shapes
from model.checkpoint.convert.official.layout import OfficialLayout
from model.checkpoint.convert.official.sizes import derive_config
from model.checkpoint.convert.to_official import to_official
from model.checkpoint.store import CheckpointError
from model.config.presets import preset
from model.config.schema import MMInterleavedConfig
from model.processor import Processor
from tests.model import golden
from tests.model.checkpoint.convert import official_files as official


def silent(_name: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("official")
    official.write_layout(root, golden.state_dict(), golden.config())
    official.write_settings(root / "mm_inference.yaml", golden.config())
    return root


@pytest.fixture(scope="module")
def converted(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted")
    convert(layout, target, ConvertOptions(), silent)
    return target


def read_all(directory: Path) -> dict[str, Tensor]:
    return dict(load.iter_tensors(directory))


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


def test_every_tensor_arrives_bit_for_bit(converted: Path) -> None:
    assert_same(read_all(converted), golden.state_dict())
    assert len(list(converted.glob("model-*.safetensors"))) == 3
    store.verify(converted)


def test_configuration_is_derived_from_shapes_and_components(converted: Path) -> None:
    derived, recorded = store.load_config(converted), golden.config()
    same = replace(
        derived,
        name=recorded.name,
        llm=replace(derived.llm, num_key_value_heads=None, head_dim=None),
    )
    assert same == recorded


def test_converted_checkpoint_computes_the_recorded_tokens(converted: Path) -> None:
    model = load.load_model(converted, components=("visual_tokenizer",))
    recorded = golden.tensors("visual_tokenizer")
    pixels = golden.images()[recorded["in/image_index"]]
    with torch.no_grad():
        tokens = model.visual_tokenizer(pixels).tokens_NTD
    golden.assert_close("tokens", tokens, recorded["out/vis_embed"], 2e-4)


def test_round_trip_is_bit_exact(converted: Path, tmp_path: Path) -> None:
    to_official(converted, tmp_path / "back", silent)
    shards = sorted((tmp_path / "back/weights").glob("pytorch_model-*.bin"))
    assert len(shards) == 3
    state: dict[str, Tensor] = {}
    for path in shards:
        state |= torch.load(path, weights_only=True)
    assert_same(state, golden.state_dict())

    config = convert(tmp_path / "back", tmp_path / "again", ConvertOptions(), silent)
    assert config == store.load_config(converted)
    assert_same(read_all(tmp_path / "again"), golden.state_dict())
    for name in (store.TOKENIZER, store.TOKENIZER_CONFIG):
        assert (tmp_path / "again" / name).read_bytes() == (converted / name).read_bytes()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from model.checkpoint.convert.from_official import ConvertOptions, convert

    def die_in_second_file(name, done, total):
        if name.startswith("model-00002") and done > 0.5 * total:
            os.kill(os.getpid(), signal.SIGKILL)

    convert(Path(sys.argv[1]), Path(sys.argv[2]), ConvertOptions(), die_in_second_file)
"""


def test_killed_conversion_goes_on_where_it_was(layout: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(layout), str(target)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    first = target / "model-00001-of-00003.safetensors"
    assert first.is_file()
    assert not (target / "model-00002-of-00003.safetensors").exists()
    assert not (target / store.MANIFEST).exists()
    os.utime(first, ns=(1, 1))

    convert(layout, target, ConvertOptions(), silent)

    assert first.stat().st_mtime_ns == 1, "a finished file was written again"
    assert_same(read_all(target), golden.state_dict())
    assert not list(target.glob(".*"))
    store.verify(target)


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
    with pytest.raises(CheckpointError, match=r"soi_token: shape \[2, 128\]"):
        convert_state(tmp_path, state_with(soi_token=torch.zeros(2, 128)))


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


def test_code_in_a_shard_is_refused(layout: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/pwned",)

    torch.save({"soi_token": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a file of plain tensors"):
        convert(tmp_path, tmp_path / "out", ConvertOptions(), silent)
    assert not (tmp_path / "pwned").exists()


def test_older_shard_format_is_read(tmp_path: Path) -> None:
    state = golden.state_dict()
    root = official.write_layout(tmp_path / "in", state, golden.config(), num_shards=1)
    official.write_settings(root / "mm_inference.yaml", golden.config())
    shard = next(root.rglob("pytorch_model-*.bin"))
    torch.save(dict(state), shard, _use_new_zipfile_serialization=False)
    convert(root, tmp_path / "out", ConvertOptions(), silent)
    assert_same(read_all(tmp_path / "out"), state)
    assert (tmp_path / "out" / store.WEIGHTS).is_file()


def test_command_reports_errors_and_succeeds(layout: Path, tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args([str(tmp_path), str(tmp_path / "out")])) == 1
    assert run(parser.parse_args([str(layout), str(tmp_path / "out"), "--dtype", "fp16"])) == 0
    tensors = read_all(tmp_path / "out")
    assert tensors["soi_token"].dtype == torch.float16
    assert json.loads((tmp_path / "out/manifest.json").read_text())["files"]


def test_tokenizer_has_the_image_tokens_and_the_official_ids(converted: Path, layout: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    config = store.load_config(converted)
    processor = Processor(config, store.load_tokenizer(converted))
    pieces = SentencePieceProcessor(model_file=str(layout / "assets/lmsys/vicuna/tokenizer.model"))
    for text in ("A photo of a cat.", " two  spaces", "日本語 <s>", "</s>\n<|image|>"):
        assert processor.encode_text(text) == pieces.encode(text)
        assert processor.decode(pieces.encode(text)) == pieces.decode(pieces.encode(text))
    special = config.special_tokens
    assert processor.encode_trusted("a <|beginofimage|> b") == [
        *pieces.encode("a"),
        special.soi_token_id,
        *pieces.encode("b"),
    ]


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


def test_finished_export_is_not_written_again(converted: Path, tmp_path: Path) -> None:
    to_official(converted, tmp_path, silent)
    shards = sorted(tmp_path.rglob("*.bin"))
    for path in shards:
        os.utime(path, ns=(1, 1))
    shards[1].unlink()
    to_official(converted, tmp_path, silent)
    assert [path.stat().st_mtime_ns == 1 for path in shards] == [True, False, True]


def test_everything_in_one_directory(tmp_path: Path) -> None:
    """Shards beside the language model's own configuration and tokenizer."""
    root = official.write_layout(tmp_path / "in", golden.state_dict(), golden.config())
    for path in (*root.rglob("pytorch_model*"), *(root / "assets/lmsys/vicuna").iterdir()):
        path.rename(root / path.name)
    official.write_settings(root / "mm_inference.yaml", golden.config())
    convert(root, tmp_path / "out", ConvertOptions(), silent)
    assert_same(read_all(tmp_path / "out"), golden.state_dict())


def test_other_sizes(tmp_path: Path) -> None:
    """Grouped-query attention, one synchronizer, two tokens more: all derived from shapes."""
    config = other_config()
    from model.checkpoint.seeded import randomise
    from model.mm_interleaved import MMInterleaved

    model = MMInterleaved(config)
    randomise(model, config, seed=3)
    root = official.write_layout(tmp_path / "in", dict(model.state_dict()), config, num_shards=2)
    official.write_settings(root / "mm_inference.yaml", config)
    derived = convert(root, tmp_path / "out", ConvertOptions(), silent)
    assert replace(derived, name=config.name, llm=config.llm) == config
    assert derived.llm.kv_heads == config.llm.kv_heads
    assert_same(read_all(tmp_path / "out"), dict(model.state_dict()))


def test_published_configuration_shows_in_the_shapes(tmp_path: Path) -> None:
    """Without any component directory, what shapes do not show is taken as published."""
    published = preset("13b")
    derived = derive_config(expected_shapes(published), OfficialLayout(()))
    llm = replace(derived.llm, num_key_value_heads=None, head_dim=None)
    assert replace(derived, name="13b", llm=llm) == published


def other_config() -> MMInterleavedConfig:
    recorded = golden.config()
    return replace(
        recorded,
        name="other",
        llm=replace(
            recorded.llm,
            hidden_size=96,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            vocab_size=400,
        ),
        txt_vocab_size=402,
        num_img_token=5,
        visual_perceiver=replace(recorded.visual_perceiver, num_queries=5),
        image_decoder=replace(
            recorded.image_decoder,
            perceiver=replace(
                recorded.image_decoder.perceiver, encoder_hidden_size=96, num_attention_heads=2
            ),
        ),
        special_tokens=replace(
            recorded.special_tokens, pad_token_id=399, soi_token_id=400, image_token_id=401
        ),
        cross_attention_frequency=2,
        text_synchronizer=replace(recorded.text_synchronizer, n_heads=4, n_points=6, ratio=0.25),
    )
