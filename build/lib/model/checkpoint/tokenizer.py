"""The tokenizer of a language model's directory, with the two image tokens.

The official code uses the slow SentencePiece tokenizer of Llama, which encodes each run of text
between special tokens as if it began a document. The same pieces are rebuilt here as a byte-level
fallback BPE of `tokenizers`, so that serving needs no SentencePiece. It stays here because
transformers' LlamaTokenizer gives other ids than SentencePiece for some texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from model.checkpoint.store import CheckpointError
from model.config.schema import MMInterleavedConfig
from model.processor import IMAGE_TOKEN, SOI_TOKEN

_SPACE = "▁"
_PROBES = ("A photo of", " two  spaces\n", "naïve 日本語 🙂\t1234", "don't <s> </s>")


def load_official_tokenizer(
    directory: Path, config: MMInterleavedConfig
) -> PreTrainedTokenizerFast:
    """The tokenizer of a language model's directory, with the image tokens at their ids.

    Raises:
        CheckpointError: there is no tokenizer, or its ids are not the configured ones.
    """
    if (directory / "tokenizer.model").is_file():
        tokenizer = from_sentencepiece(directory / "tokenizer.model")
    elif (directory / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    else:
        raise CheckpointError(f"{directory} has neither tokenizer.model nor tokenizer.json")
    return wrap(with_image_tokens(tokenizer, config), config)


def with_image_tokens(tokenizer: Tokenizer, config: MMInterleavedConfig) -> Tokenizer:
    """Add the image tokens after the vocabulary.

    Raises:
        CheckpointError: their ids are not the configured ones.
    """
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (SOI_TOKEN, IMAGE_TOKEN)]
    )
    special = config.special_tokens
    wanted = {SOI_TOKEN: special.soi_token_id, IMAGE_TOKEN: special.image_token_id}
    for token, index in wanted.items():
        if tokenizer.token_to_id(token) != index:
            found = tokenizer.token_to_id(token)
            raise CheckpointError(f"{token} has id {found}, configured {index}")
    return tokenizer


def wrap(tokenizer: Tokenizer, config: MMInterleavedConfig) -> PreTrainedTokenizerFast:
    """The tokenizer in the form of transformers and vLLM, with the configured roles."""
    special = config.special_tokens
    roles: Mapping[str, int] = {
        "bos_token": special.bos_token_id,
        "eos_token": special.eos_token_id,
        "pad_token": special.pad_token_id,
    }
    added = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    # The published padding id is an ordinary piece: naming it a special token would change ids.
    names: dict[str, Any] = {
        role: tokenizer.id_to_token(index) for role, index in roles.items() if index in added
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names
    )


def from_sentencepiece(path: Path) -> Tokenizer:
    """Rebuild a SentencePiece BPE model, and check its ids on sample texts.

    Raises:
        CheckpointError: the model is of a kind that Llama tokenizers are not.
    """
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(path))
    size = pieces.vocab_size()
    vocab = {pieces.id_to_piece(index): index for index in range(size)}
    control = [i for i in range(size) if pieces.is_control(i) or pieces.is_unknown(i)]
    spelled = [i for i in range(size) if i not in control and not pieces.is_byte(i)]
    scores = {pieces.id_to_piece(index): pieces.get_score(index) for index in spelled}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(vocab, scores),
            unk_token=pieces.id_to_piece(pieces.unk_id()),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    _check_probes(tokenizer, pieces, path)
    tokenizer.add_special_tokens(
        [AddedToken(pieces.id_to_piece(i), special=True, normalized=False) for i in control]
    )
    return tokenizer


def _merges(vocab: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """All pairs of pieces that form another piece, those of the best score first."""
    ranked: list[tuple[float, int, int, tuple[str, str]]] = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                ranked.append((-score, vocab[left], vocab[right], (left, right)))
    return [pair for *_, pair in sorted(ranked)]


def _check_probes(tokenizer: Tokenizer, pieces: Any, path: Path) -> None:
    for text in _PROBES:
        if tokenizer.encode(text, add_special_tokens=False).ids != pieces.encode(text):
            raise CheckpointError(f"{path}: not a Llama tokenizer; {text!r} gets other ids")
