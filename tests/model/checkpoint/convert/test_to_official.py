"""The way back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.checkpoint import store
from model.checkpoint.convert.from_official import ConvertOptions, convert
from model.checkpoint.convert.to_official import to_official
from model.config.schema import CodebookConfig
from tests.model import golden
from tests.model.checkpoint.convert.official_files import assert_same, read_all, silent


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


def test_finished_export_is_not_written_again(converted: Path, tmp_path: Path) -> None:
    to_official(converted, tmp_path, silent)
    shards = sorted(tmp_path.rglob("*.bin"))
    for path in shards:
        os.utime(path, ns=(1, 1))
    shards[1].unlink()
    to_official(converted, tmp_path, silent)
    assert [path.stat().st_mtime_ns == 1 for path in shards] == [True, False, True]


def test_options_that_the_official_decoder_lacks_are_refused(tmp_path: Path) -> None:
    config = golden.config()
    books = CodebookConfig(sizes=(3,), sections=((0,),))
    perceiver = replace(config.image_decoder.perceiver, codebook=books)
    decoder = replace(config.image_decoder, token_grid=True, guide_maps=True, perceiver=perceiver)
    replace(config, image_decoder=decoder).save(tmp_path / "config.json")
    with pytest.raises(store.CheckpointError, match="no token_grid, guide_maps, codebook"):
        to_official(tmp_path, tmp_path / "official", silent)
    assert not (tmp_path / "official").exists()
