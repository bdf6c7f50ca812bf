"""A paged feature cache filled by hand, and what a synchronizer should read from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.config.schema import SynchronizerConfig
from model.synchronizer.feature_synchronizer import FeatureSynchronizer
from model.synchronizer.geometry import Geometry, Sight

GEOMETRIES = {
    "21 vectors a token": Geometry(4, 3, (8, 4, 2), 4, 16, 21, 4, 5, 9),
    "padding in the last token": Geometry(2, 8, (6, 3), 3, 8, 7, 7, 3, 6),
    "one map": Geometry(16, 8, (5,), 5, 24, 9, 3, 8, 50),
    # Whole registers of channels, some vectors, and a rest.
    "many channels": Geometry(2, 3, (4, 2), 4, 296, 5, 4, 3, 6),
}
BLOCK = 16
MIDDLE_12 = torch.full((1, 2), 0.5)


@dataclass
class Step:
    """Inputs of one step, and the same images for the plain module."""

    query_TD: torch.Tensor
    cache_NW: torch.Tensor
    sight: Sight
    features_RIVC: torch.Tensor
    visible_TI: torch.Tensor


def on(sight: Sight, device: str) -> Sight:
    """The same with its tensors on a device."""
    fields = (v.to(device) if isinstance(v, torch.Tensor) else v for v in vars(sight).values())
    return Sight(*fields)


def value_width(geometry: Geometry) -> int:
    """Numbers of all heads' values."""
    return 6 * geometry.num_heads


def module(geometry: Geometry, width: int = 32, seed: int = 0) -> FeatureSynchronizer:
    """A synchronizer in which everything has an effect."""
    generator = torch.Generator().manual_seed(seed)
    config = SynchronizerConfig(
        n_heads=geometry.num_heads,
        n_points=geometry.num_points,
        ratio=1.0,
        attn_dim=value_width(geometry),
        max_num_image_per_seq=geometry.num_relative,
    )
    made = FeatureSynchronizer(
        width,
        geometry.channels,
        value_width(geometry),
        width,
        geometry.sides,
        geometry.base_side,
        config,
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            scale = 2.0 if "sampling_offsets" in name else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale / 2)
    return made


def official_names(made: FeatureSynchronizer, geometry: Geometry) -> dict[str, torch.Tensor]:
    """A layer's parameters under their names in a checkpoint."""
    weights = {f"attn.{name}": value for name, value in made.state_dict().items()}
    weights["norm2.weight"] = torch.linspace(0.5, 1.5, geometry.channels)
    weights["gate"] = torch.tensor([0.7])
    return weights


def step(geometry: Geometry, width: int = 32, seed: int = 0, num_tokens: int = 23) -> Step:
    """Requests with 0 .. max_images images at random places of a cache with random blocks."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    requests, images = 4, geometry.max_images
    length = images * (geometry.image_tokens + 3) + 40
    blocks = -(-length // BLOCK)
    table_RW = torch.randperm(requests * blocks + 5, generator=generator)[: requests * blocks]
    table_RW = table_RW.view(requests, blocks)
    cache_NW = torch.full(((requests * blocks + 5) * BLOCK, geometry.token_width), torch.nan)
    num_vectors = sum(side * side for side in geometry.sides)
    features_RIVC = torch.randn(
        requests, images, num_vectors, geometry.channels, generator=generator
    )
    start_RI = torch.zeros(requests, images + 1, dtype=torch.long)
    padding = geometry.image_tokens * geometry.vectors_per_token - num_vectors
    for request in range(requests):
        place = 1
        for image in range(images):
            place += 1 + int(draw(3, 1))
            start_RI[request, image] = place
            packed = torch.nn.functional.pad(features_RIVC[request, image], (0, 0, 0, padding))
            for row in packed.view(geometry.image_tokens, -1):
                slot = table_RW[request, place // BLOCK] * BLOCK + place % BLOCK
                cache_NW[slot] = row
                place += 1
    request_T = draw(requests, num_tokens).sort().values
    count_T = draw(images + 1, num_tokens)
    base_T = (torch.rand(num_tokens, generator=generator) * (count_T + 1)).long()
    base_T[::3] = 0
    image_I = torch.arange(images)
    visible_TI = (image_I >= base_T[:, None]) & (image_I < count_T[:, None])
    return Step(
        query_TD=torch.randn(num_tokens, width, generator=generator),
        cache_NW=cache_NW,
        sight=Sight(request_T, base_T, count_T, start_RI, table_RW, BLOCK, MIDDLE_12),
        features_RIVC=features_RIVC,
        visible_TI=visible_TI,
    )


def expected(made: FeatureSynchronizer, weights: dict[str, torch.Tensor], s: Step) -> torch.Tensor:
    """The plain module's output for each token, gated."""
    middle_112 = torch.full((1, 1, 2), 0.5)
    rows = []
    for token, request in enumerate(s.sight.request_T):
        features_1IVC = s.features_RIVC[request][None] * weights["norm2.weight"]
        visible_11I = s.visible_TI[token][None, None]
        rows.append(made(s.query_TD[token][None, None], features_1IVC, middle_112, visible_11I))
    return torch.cat(rows)[:, 0] * weights["gate"].tanh()
