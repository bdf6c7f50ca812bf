"""Which parameters learn, and how fast: what the published training froze, and its rates."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from torch import nn

from model.checkpoint.packaged.low_rank import Factors, Update
from model.config.schema import ConfigError
from model.mm_interleaved import MMInterleaved

PRETRAINED = ("language", "vision")

# Name, factor of the rate, weight decay (None: that of the run). The first match counts. The
# published configuration has 1e-4, for offsets and U-Net 1e-5, and no decay of gates and offsets.
_PUBLISHED: tuple[tuple[str, float, float | None], ...] = (
    ("llama_cross_attn.gate", 1.0, 0.0),
    ("sampling_offsets", 0.1, 0.0),
    ("llama_cross_attn", 1.0, None),
    ("image_decoder.decoder.unet", 0.1, None),
    ("", 1.0, None),
)


@dataclass(frozen=True)
class ParameterGroup:
    """Some parameters, the factor of their rate, and their weight decay if not the run's."""

    parameters: tuple[nn.Parameter, ...]
    rate_factor: float = 1.0
    weight_decay: float | None = None


def train_only(model: MMInterleaved, parts: Iterable[nn.Module | nn.Parameter]) -> None:
    """Freeze a model but for some of its parts; of those, tables stay frozen as well."""
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "ignore_token")):
            parameter.requires_grad_(False)


def freeze_pretrained(model: MMInterleaved, parts: Collection[str] = PRETRAINED) -> None:
    """Freeze what the published training froze: language model, ViT, autoencoder, tables.

    Args:
        model: the model.
        parts: which of language model and ViT to freeze; autoencoder and tables always are.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_part_of(name) not in {*parts, "fixed"})


def _part_of(name: str) -> str:
    """The pre-trained part that a parameter belongs to; empty for what always learns."""
    vit = "visual_tokenizer.encoder.vision_model."
    if name.endswith(("pos_embed", ".mmfs.ignore_token")):
        return "fixed"
    if name.startswith("image_decoder.decoder.vae."):
        return "fixed"
    if name.startswith("mm_decoder."):
        return "" if "llama_cross_attn" in name else "language"
    if name.startswith(vit):
        return "" if name.removeprefix(vit).startswith("adapter") else "vision"
    return "language" if name.startswith("text_decoder.head.") else ""


def published_groups(named: Iterable[tuple[str, nn.Parameter]]) -> list[ParameterGroup]:
    """The named parameters that learn, in groups of the published rates and decays."""
    members: dict[str, list[nn.Parameter]] = {key: [] for key, _, _ in _PUBLISHED}
    for name, parameter in named:
        if parameter.requires_grad:
            members[next(key for key in members if key in name)].append(parameter)
    return [
        ParameterGroup(tuple(members[key]), factor, decay)
        for key, factor, decay in _PUBLISHED
        if members[key]
    ]


_NAME = "default"
_MATRICES = r"layers\.\d+\.(self_attn|mlp)\.\w+_proj"
_SCALE = 2.0


class LowRankAdapter:
    """Adds `up down` to every matrix of the language model's layers.

    Of these matrices only the two factors learn; other parameters are unaffected. Factors of an
    earlier update go on learning; what the rank leaves beside them starts with `up` at zero.
    Source: Hu et al., LoRA (2021), implemented by peft.

    Raises:
        ConfigError: the earlier update has a higher rank.
    """

    def __init__(
        self,
        model: MMInterleaved,
        rank: int,
        frozen_dtype: torch.dtype = torch.float32,
        earlier: Update = MappingProxyType({}),
    ) -> None:
        """Until the merge frozen matrices have `frozen_dtype`; autocast would cast them anew.

        `earlier` is the update that the matrices have.
        """
        self._language = model.mm_decoder
        before = {id(p): p.requires_grad for p in self._language.parameters()}
        config = LoraConfig(r=rank, lora_alpha=_SCALE * rank, target_modules=_MATRICES)
        self._adapted = LoraModel(self._language, config, _NAME)
        for parameter in self._language.parameters():
            parameter.requires_grad_(before.get(id(parameter), True))
        for name, layer in self._layers().items():
            if name in earlier:
                _go_on(layer, earlier[name])
        self._exact = [(layer.weight, layer.weight.data) for layer in self._layers().values()]
        for weight, data in self._exact:
            weight.data = data.to(frozen_dtype)

    @torch.no_grad()
    def merge(self) -> Update:
        """Merge the update into the matrices, remove the adapter, and return the update."""
        for weight, data in self._exact:
            weight.data = data.to(weight.device)
        update = {
            name: Factors(
                layer.lora_A[_NAME].weight.detach().clone(),
                layer.lora_B[_NAME].weight.detach() * layer.scaling[_NAME],
            )
            for name, layer in self._layers().items()
        }
        self._adapted.merge_and_unload()
        return update

    def _layers(self) -> dict[str, LoraLayer]:
        """The adapted layers, by the names of their matrices in a checkpoint."""
        modules = self._language.named_modules()
        return {f"mm_decoder.{n}.weight": m for n, m in modules if isinstance(m, LoraLayer)}


@torch.no_grad()
def _go_on(layer: LoraLayer, factors: Factors) -> None:
    """Take an update out of the layer's matrix, and let its factors be the first to learn."""
    down_RI, up_OR = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
    num_earlier, rank = len(factors.down_RI), len(down_RI)
    if num_earlier > rank:
        raise ConfigError(f"low_rank = {rank}: the earlier update has rank {num_earlier}")
    layer.weight.sub_(factors.change_OI.to(layer.weight.dtype))
    down_RI[:num_earlier] = factors.down_RI
    up_OR[:, :num_earlier] = factors.up_OR / layer.scaling[_NAME]
