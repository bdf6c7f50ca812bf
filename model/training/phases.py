"""The phases of a recipe: each builds an objective, trains it, and updates the model."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import torch
from accelerate import Accelerator

from model.checkpoint.packaged.base_model import BASES, is_base_tensor
from model.checkpoint.packaged.low_rank import Update
from model.config.schema import ConfigError
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.batches import pixels_of
from model.training.data.features import FeatureBank
from model.training.data.mixture import Mixture
from model.training.objectives.beginning import BeginningObjective
from model.training.objectives.cells import CellObjective
from model.training.objectives.chat import ChatObjective
from model.training.objectives.decoder.autoencoder import (
    AutoencoderObjective,
    scale_latents,
    write_principal_components,
)
from model.training.objectives.decoder.drawing import DrawingObjective
from model.training.objectives.decoder.images import ImageObjective, JointObjective
from model.training.objectives.decoder.reading import ReadingObjective
from model.training.objectives.decoder.sketching import SketchObjective
from model.training.objectives.language import LanguageObjective
from model.training.objectives.vision import (
    AlignObjective,
    CondenseObjective,
    VisionObjective,
    spread_visual_tokens,
)
from model.training.parameters import LowRankAdapter
from model.training.recipe import Phase, Recipe
from model.training.targets.chat import ChatTargets
from model.training.trainer import Objective, Trainer, TrainerConfig, multiplies_bfloat16
from model.training.world.world import ExampleMaker, SegmentedWorld

_ENCODER_IMAGES = 500
_CALIBRATION_IMAGES = 64

# The mixtures of phases that name no `weights`.
DEFAULT_WEIGHTS: dict[str, dict[str, float]] = {
    "language": {
        "story": 0.3,
        "detail_question": 0.3,
        "caption": 0.2,
        "grounding": 0.1,
        "text_to_image": 0.05,
        "segmentation_to_image": 0.05,
    },
    "sketch": {"story": 0.4, "text_to_image": 0.6},
    "drawing": {"story": 0.6, "text_to_image": 0.4},
    "reading": {"story": 0.4, "text_to_image": 0.6},
    "pictures": {"story": 0.6, "text_to_image": 0.4},
    "beginning": {"story": 0.4, "text_to_image": 0.6},
    "joint": {"story": 0.5, "caption": 0.25, "text_to_image": 0.25},
}


def run_phase(
    model: MMInterleaved,
    processor: Processor,
    recipe: Recipe,
    phase: Phase,
    directory: Path,
    seconds: float | None = None,
    update: Update = MappingProxyType({}),
) -> Update:
    """Run one phase on the model, resuming from `directory`, for at most `seconds`.

    Returns:
        The low-rank update of the language model: `update`, which the model comes with, or what a
        phase with a `low_rank` makes of it.
    """
    if phase.phase == "encoder":
        _write_encoder(model, recipe)
        return update
    if phase.phase == "language" and model.config.name in BASES:
        _freeze_language(model)
    half = recipe.half and multiplies_bfloat16(Accelerator().device)
    frozen_dtype = torch.bfloat16 if half else torch.float32
    adapter = None
    if phase.low_rank:
        adapter = LowRankAdapter(model, phase.low_rank, frozen_dtype, update)
    objective = _BUILDERS[phase.phase](model, processor, recipe, phase)
    if phase.chat_weight:
        objective = _chatting(objective, model, processor, recipe, phase, directory.parent)
    config = TrainerConfig(
        steps=phase.steps,
        learning_rate=phase.learning_rate,
        warmup_steps=phase.warmup_steps,
        ema_decay=phase.ema_decay,
        optimizer=phase.optimizer,
        seed=recipe.seed,
        half=recipe.half,
        seconds=seconds,
    )
    trainer = Trainer(objective, config, directory)
    trainer.run()
    trainer.use_average()
    if adapter is not None:
        update = adapter.merge()
    model.requires_grad_(True).cpu()
    if phase.phase == "autoencoder" and not phase.decoder_only:
        calibrate_latents(model, recipe)
    return update


def _chatting(
    objective: Objective,
    model: MMInterleaved,
    processor: Processor,
    recipe: Recipe,
    phase: Phase,
    directory: Path,
) -> Objective:
    """The objective that keeps chatting; its targets are made once for all phases of a stage."""
    processes = Accelerator()
    model.to(processes.device)
    with processes.main_process_first():
        path, base = directory / "chat.safetensors", BASES[model.config.name]
        targets = ChatTargets.at(path, model, processor, base, recipe.seed)
    # Answers are short beside stories: half as many cost about a quarter more time.
    batch_size = -(-phase.batch_size // 2)
    return ChatObjective(objective, model, targets, phase.chat_weight, batch_size)


def _world_pixels(recipe: Recipe, size: int, number: int) -> torch.Tensor:
    rng = random.Random(f"pixels/{recipe.seed}")
    scenes = [recipe.world.scene(rng) for _ in range(number)]
    return torch.stack([pixels_of(scene.render(size)) for scene in scenes])


def _write_encoder(model: MMInterleaved, recipe: Recipe) -> None:
    size = model.config.image_decoder.image_size
    pixels_N3SS = _world_pixels(recipe, size, _ENCODER_IMAGES)
    write_principal_components(model.image_decoder.decoder.vae, pixels_N3SS)
    calibrate_latents(model, recipe)


@torch.no_grad()
def calibrate_latents(model: MMInterleaved, recipe: Recipe) -> None:
    """Set the scaling factor that gives latents a standard deviation of one."""
    size, vae = model.config.image_decoder.image_size, model.image_decoder.decoder.vae
    pixels_N3SS = _world_pixels(recipe, size, _CALIBRATION_IMAGES)
    spread = float(vae.encode(pixels_N3SS * 2 - 1).latent_dist.mean.std())
    scale_latents(model, round(1 / spread, 5))


def _autoencoder(
    model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase
) -> Objective:
    vae, size = model.image_decoder.decoder.vae, model.config.image_decoder.image_size
    vae.requires_grad_(True)
    return AutoencoderObjective(vae, size, phase, recipe.world, recipe.seed, recipe.workers)


def _vision(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    return VisionObjective(model.visual_tokenizer, phase, recipe.world, recipe.seed)


def _cells(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    world = recipe.world
    if not isinstance(world, SegmentedWorld):
        raise ConfigError("the phase `cells` needs a world that knows its things one by one")
    return CellObjective(model.visual_tokenizer, phase, world, recipe.seed, recipe.workers)


def _condense(
    model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase
) -> Objective:
    spread_visual_tokens(model.visual_tokenizer)
    return CondenseObjective(model.visual_tokenizer, phase, recipe.world, recipe.seed)


def _align(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    if phase.spread:
        spread_visual_tokens(model.visual_tokenizer)
    return AlignObjective(model, processor, phase, recipe.world, recipe.seed)


def _language(
    model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase
) -> Objective:
    stock = bank = None
    if "vision" in phase.frozen:
        stock = recipe.world.stock(f"{recipe.seed}", phase.num_pictures)
        bank = FeatureBank(model.visual_tokenizer, model.config.spatial_shapes)
    mixture = _mixture(recipe, phase, stock)
    return LanguageObjective(model, processor, phase, mixture, recipe.world.told, bank)


def _drawing(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    mixture, told = _mixture(recipe, phase), recipe.world.told
    if phase.true_sketches and told.sketcher is None:
        raise ConfigError("`true_sketches` needs a world that sketches its images")
    return DrawingObjective(model, phase, mixture, told, recipe.seed, recipe.workers)


def _sketch(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    if recipe.world.told.sketcher is None:
        raise ConfigError("the phase `sketch` needs a world that sketches its images")
    perceiver = model.image_decoder.perceiver_resampler
    if len(perceiver.composing_layers) < 3:
        raise ConfigError(
            f"the image perceiver of {model.config.name!r} has no three composing layers"
        )
    mixture = _mixture(recipe, phase)
    return SketchObjective(model, phase, mixture, recipe.world.told, recipe.seed, recipe.workers)


def _reading(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    mixture = _mixture(recipe, phase)
    return ReadingObjective(model, processor, phase, mixture, recipe.world.told, recipe.seed)


def _images(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    mixture = _mixture(recipe, phase)
    return ImageObjective(model, processor, phase, mixture, recipe.world.told, recipe.seed)


def _beginning(
    model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase
) -> Objective:
    return BeginningObjective(model, processor, phase, _mixture(recipe, phase), recipe.seed)


def _joint(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    return JointObjective(model, processor, phase, _mixture(recipe, phase))


def _mixture(recipe: Recipe, phase: Phase, stock: ExampleMaker | None = None) -> Mixture:
    weights = phase.weights or DEFAULT_WEIGHTS[phase.phase]
    return Mixture(weights, recipe.world, recipe.seed, stock)


def _freeze_language(model: MMInterleaved) -> None:
    """Freeze a pre-trained language model; synchronizers and new tokens go on learning."""
    for name, parameter in model.named_parameters():
        if is_base_tensor(name) or name.startswith("text_decoder.head."):
            parameter.requires_grad_(False)


_Builder = Callable[[MMInterleaved, Processor, Recipe, Phase], Objective]
_BUILDERS: dict[str, _Builder] = {
    "autoencoder": _autoencoder,
    "vision": _vision,
    "cells": _cells,
    "condense": _condense,
    "align": _align,
    "language": _language,
    "sketch": _sketch,
    "drawing": _drawing,
    "reading": _reading,
    "pictures": _images,
    "beginning": _beginning,
    "joint": _joint,
}
