"""The phases of a recipe: what each one builds, trains and leaves in the model."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch

from model.checkpoint.base_model import BASES, is_base_tensor
from model.checkpoint.low_rank import Update
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data import pixels_of
from model.training.encoder import scale_latents, write_principal_components
from model.training.features import FeatureBank
from model.training.lora import LowRankAdapter
from model.training.mixture import Mixture
from model.training.objectives.align import AlignObjective
from model.training.objectives.autoencoder import AutoencoderObjective
from model.training.objectives.condense import CondenseObjective, spread_visual_tokens
from model.training.objectives.joint import JOINT_WEIGHTS, JointObjective
from model.training.objectives.language import PRETRAIN_WEIGHTS, LanguageObjective
from model.training.objectives.pictures import DECODER_WEIGHTS, PictureObjective
from model.training.objectives.vision import VisionObjective
from model.training.recipe import IMAGE_TOKENS, Phase, Recipe
from model.training.stock import Stock
from model.training.trainer import Objective, Trainer, TrainerConfig
from model.training.world.examples import any_scene

_ENCODER_PICTURES = 500
_CALIBRATION_PICTURES = 64


def run_phase(
    model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase, directory: Path
) -> Update:
    """Run one phase on the model, resuming from `directory`.

    Returns:
        What it added to a pre-trained language model: nothing unless the phase has a `low_rank`.
    """
    if phase.phase == "encoder":
        _write_encoder(model, recipe)
        return {}
    if phase.phase == "language" and model.config.name in BASES:
        _freeze_language(model)
    adapter = LowRankAdapter(model, phase.low_rank) if phase.low_rank else None
    objective = _BUILDERS[phase.phase](model, processor, recipe, phase)
    config = TrainerConfig(
        steps=phase.steps,
        learning_rate=phase.learning_rate,
        warmup_steps=phase.warmup_steps,
        ema_decay=phase.ema_decay,
        seed=recipe.seed,
        half=recipe.half,
    )
    trainer = Trainer(objective, config, directory)
    trainer.run()
    trainer.use_average()
    update = adapter.merge() if adapter else {}
    model.requires_grad_(True).cpu()
    if phase.phase == "autoencoder" and not phase.decoder_only:
        calibrate_latents(model, recipe)
    return update


def _world_pixels(recipe: Recipe, size: int, number: int) -> torch.Tensor:
    rng = random.Random(f"pixels/{recipe.seed}")
    scenes = [any_scene(rng, recipe.objects) for _ in range(number)]
    return torch.stack([pixels_of(scene.render(size)) for scene in scenes])


def _write_encoder(model: MMInterleaved, recipe: Recipe) -> None:
    size = model.config.image_decoder.image_size
    pixels_N3SS = _world_pixels(recipe, size, _ENCODER_PICTURES)
    write_principal_components(model.image_decoder.decoder.vae, pixels_N3SS)
    calibrate_latents(model, recipe)


@torch.no_grad()
def calibrate_latents(model: MMInterleaved, recipe: Recipe) -> None:
    """Set the scaling factor that gives latents a standard deviation of one."""
    size, vae = model.config.image_decoder.image_size, model.image_decoder.decoder.vae
    pixels_N3SS = _world_pixels(recipe, size, _CALIBRATION_PICTURES)
    spread = float(vae.encode(pixels_N3SS * 2 - 1).latent_dist.mean.std())
    scale_latents(model, round(1 / spread, 5))


def _autoencoder(
    model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase
) -> Objective:
    objective = AutoencoderObjective(
        model.config, phase.batch_size, recipe.objects, phase.decoder_only, recipe.seed
    )
    objective.adopt(model.image_decoder.decoder.vae.requires_grad_(True))
    return objective


def _vision(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    return VisionObjective(
        model.config, phase.batch_size, recipe.objects, recipe.seed, model.visual_tokenizer
    )


def _condense(
    model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase
) -> Objective:
    spread_visual_tokens(model.visual_tokenizer)
    return CondenseObjective(
        model.config,
        model.visual_tokenizer,
        phase.batch_size,
        recipe.objects,
        phase.num_pictures,
        recipe.seed,
    )


def _align(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    return AlignObjective(
        model,
        processor,
        phase.batch_size,
        recipe.objects,
        phase.num_pictures,
        recipe.seed,
        phase.spell_out,
    )


def _language(
    model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase
) -> Objective:
    weights = phase.weights or PRETRAIN_WEIGHTS
    stock = bank = None
    if "vision" in phase.frozen:
        stock = Stock.of_pictures(f"{recipe.seed}", recipe.objects, phase.num_pictures)
        bank = FeatureBank(model.visual_tokenizer, model.config.spatial_shapes)
    return LanguageObjective(
        model,
        processor,
        phase.batch_size,
        weights,
        recipe.objects,
        phase.learn_prompt,
        phase.vision_rate,
        recipe.seed,
        Mixture(weights, recipe.objects, recipe.seed, stock),
        bank,
        phase.only_after_image,
        phase.image_token_weight,
        phase.by_answer,
        phase.ordinal_weight,
        phase.turn_weight,
    )


def _freeze_language(model: MMInterleaved) -> None:
    """Leave a pre-trained language model as it is; synchronizers and new tokens go on learning."""
    for name, parameter in model.named_parameters():
        if is_base_tensor(name) or name.startswith("text_decoder.head."):
            parameter.requires_grad_(False)


def _pictures(
    model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase
) -> Objective:
    return PictureObjective(
        model,
        processor,
        phase.batch_size,
        phase.weights or DECODER_WEIGHTS,
        recipe.objects,
        phase.num_pictures,
        recipe.seed,
        foreground_weight=phase.foreground_weight,
        learn_tokens=IMAGE_TOKENS not in phase.frozen,
        image_token_weight=phase.image_token_weight,
        redrawn=phase.redrawn,
    )


def _joint(model: MMInterleaved, processor: Processor, recipe: Recipe, phase: Phase) -> Objective:
    return JointObjective(
        model,
        processor,
        phase.batch_size,
        phase.weights or JOINT_WEIGHTS,
        recipe.objects,
        phase.frozen,
        phase.learn_prompt,
        recipe.seed,
        only_after_image=phase.only_after_image,
    )


_Builder = Callable[[MMInterleaved, Processor, Recipe, Phase], Objective]
_BUILDERS: dict[str, _Builder] = {
    "autoencoder": _autoencoder,
    "vision": _vision,
    "condense": _condense,
    "align": _align,
    "language": _language,
    "pictures": _pictures,
    "joint": _joint,
}
