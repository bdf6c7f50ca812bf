"""The learning rates and weight decays of the published pre-training, by parameter name."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from model.training.trainer import ParameterGroup

# Name, factor of the rate, weight decay (None: that of the run). The first match counts. The
# published configuration has 1e-4, for offsets and U-Net 1e-5, and no decay of gates and offsets.
_PUBLISHED: tuple[tuple[str, float, float | None], ...] = (
    ("llama_cross_attn.gate", 1.0, 0.0),
    ("sampling_offsets", 0.1, 0.0),
    ("llama_cross_attn", 1.0, None),
    ("image_decoder.decoder.unet", 0.1, None),
    ("", 1.0, None),
)


def published_groups(named: Iterable[tuple[str, nn.Parameter]]) -> list[ParameterGroup]:
    """Those of the named parameters that learn, in groups of their rates and decays."""
    members: dict[str, list[nn.Parameter]] = {key: [] for key, _, _ in _PUBLISHED}
    for name, parameter in named:
        if parameter.requires_grad:
            members[next(key for key in members if key in name)].append(parameter)
    return [
        ParameterGroup(tuple(members[key]), factor, decay)
        for key, factor, decay in _PUBLISHED
        if members[key]
    ]
