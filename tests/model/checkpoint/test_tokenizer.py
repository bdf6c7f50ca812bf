"""A Llama tokenizer from SentencePiece."""

from __future__ import annotations

from pathlib import Path

from model.checkpoint import store
from model.processor import Processor


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
