"""A random checkpoint is complete, repeatable, and generates text and images."""

from __future__ import annotations

import stat
from pathlib import Path

import torch

from model.checkpoint import load, seeded, store
from model.processor import Processor


def test_seeded_checkpoint_is_complete_and_repeatable(checkpoint: Path, tmp_path: Path) -> None:
    store.verify(checkpoint)
    again = seeded.create("tiny", tmp_path / "again")
    assert (again / store.MANIFEST).read_text() == (checkpoint / store.MANIFEST).read_text()
    assert stat.S_IMODE((checkpoint / store.WEIGHTS).stat().st_mode) == 0o644
    assert not list(tmp_path.glob(".*"))


def test_tokenizer_spells_everything_and_fits_the_vocabulary(checkpoint: Path) -> None:
    tokenizer = store.load_tokenizer(checkpoint)
    config = store.load_config(checkpoint)
    assert len(tokenizer) == config.txt_vocab_size
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    processor = Processor(config, tokenizer)
    text = "Größe: 12 €\n\t日本語 🙂"
    assert processor.decode(processor.encode_text(text)) == text


def test_seeded_text_goes_on_and_begins_images(checkpoint: Path) -> None:
    """The expected run of text is tens of tokens, images are begun, placeholders never."""
    config = store.load_config(checkpoint)
    model = load.load_model(checkpoint, components=("text_decoder",))
    hidden_BLD = torch.randn(4, 64, config.llm.hidden_size, generator=torch.Generator())
    with torch.no_grad():
        chance_BLV = (model.text_decoder(hidden_BLD) / 0.7).softmax(-1)
    special = config.special_tokens
    image = chance_BLV[..., special.soi_token_id].mean().item()
    end = chance_BLV[..., special.eos_token_id].mean().item()
    assert 0.005 < image < 0.3
    assert 0.0005 < end < image
    for index in (special.image_token_id, special.bos_token_id, special.pad_token_id):
        assert chance_BLV[..., index].max() < 1e-9
