"""`mmi train`: run the phases of a recipe, each resuming where it stopped."""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from model.checkpoint import load, store
from model.checkpoint.packaged import base_model, low_rank
from model.checkpoint.packaged.base_model import BASES
from model.checkpoint.packaged.low_rank import Update
from model.config.presets import preset
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.ablation.command import run_ablation
from model.training.phases import run_phase
from model.training.recipe import STAGES, Recipe
from model.training.targets.image_tokens.codes import fill_codebook
from model.training.weights.parts import load_parts, own_tensors, save_parts
from model.training.weights.start import initialise, initialise_around, world_tokenizer


def halved(model: MMInterleaved) -> MMInterleaved:
    """A copy in float16, except for the tensors whose values need float32."""
    copied = copy.deepcopy(model)
    for name, tensor in [*copied.named_parameters(), *copied.named_buffers()]:
        if tensor.is_floating_point() and not name.startswith(load.STORED_FLOAT32_PREFIXES):
            tensor.data = tensor.data.half()
    return copied


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmi train`."""
    parser.add_argument("stage", choices=(*STAGES, "all", "ablation"))
    parser.add_argument("--config", type=Path, default=Path("deploy/train/tiny.toml"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs keep state")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that make batches ahead of their steps"
    )
    parser.add_argument(
        "--start", type=Path, help="checkpoint to start from instead of a fresh one"
    )
    parser.add_argument(
        "--minutes", type=float, help="time for all phases, which share it as the recipe says"
    )
    parser.add_argument(
        "--anew", action="store_true", help="also run phases whose results the recipe has"
    )
    parser.add_argument(
        "--scale", type=int, default=1, help="batches this many times as large, as many fewer steps"
    )


def run(args: argparse.Namespace) -> int:
    """Train; every finished phase leaves a checkpoint and is not repeated."""
    if args.stage == "ablation":
        return run_ablation(args.config, args.runs)
    recipe = replace(Recipe.load(args.config), workers=args.workers).scaled(args.scale)
    if args.anew or args.start:
        recipe = replace(recipe, finished=0, parts=())
    recipe.world.check()
    directory = args.runs / args.config.stem
    before = args.start
    if before is None and args.stage == "sft":
        before = directory / "pretrain" / "checkpoint"
    stages = STAGES if args.stage == "all" else (args.stage,)
    shares = sum(phase.share for stage in stages for _, phase in recipe.to_run(stage))
    rate = None if args.minutes is None else 60 * args.minutes / shares
    for stage in stages:
        before = _run_stage(recipe, stage, before, directory / stage, rate)
    return 0


def _run_stage(
    recipe: Recipe, stage: str, before: Path | None, directory: Path, rate: float | None
) -> Path | None:
    """Run the phases of a stage after a checkpoint, and return the checkpoint that they leave.

    `rate` is the time in seconds of a phase with a share of 1, if there is a limit.
    """
    processes = Accelerator()
    console = Console(quiet=not processes.is_main_process)
    for number, phase in recipe.to_run(stage):
        place = directory / f"{number}-{phase.phase}"
        done = place / "checkpoint"
        if not (done / store.MANIFEST).is_file():
            num_phases = len(getattr(recipe, stage))
            console.print(f"{stage} {number + 1}/{num_phases}: {phase.phase}")
            model, processor = start(recipe, before)
            seconds = rate and rate * phase.share
            untrained = {name: x.clone() for name, x in own_tensors(model).items()}
            earlier = low_rank.load_update(before)
            update = run_phase(model, processor, recipe, phase, place, seconds, earlier)
            if processes.is_main_process:
                save_parts(model, untrained, place / "parts.safetensors")
                _save(model, processor.tokenizer, done, update)
            processes.wait_for_everyone()
        before = done
    if before is None and not recipe.parts:
        return None
    if processes.is_main_process:
        model, processor = start(recipe, before)
        update = low_rank.load_update(before)
        _save(halved(model), processor.tokenizer, directory / "checkpoint", update)
        console.print(f"checkpoint: {directory / 'checkpoint'}")
    return directory / "checkpoint"


def start(recipe: Recipe, checkpoint: Path | None) -> tuple[MMInterleaved, Processor]:
    """The model of a checkpoint, or a fresh one of the recipe's preset."""
    if checkpoint is not None:
        tokenizer = store.load_tokenizer(checkpoint)
        model = load.load_model(checkpoint)
        return model, Processor(model.config, tokenizer)
    config = preset(recipe.preset)
    torch.manual_seed(recipe.seed)
    model = MMInterleaved(config)
    if base := BASES.get(config.name):
        initialise_around(model)
        base_model.load_base(model, base)
        tokenizer = base_model.tokenizer(base, config)
    else:
        initialise(model)
        tokenizer = world_tokenizer(config)
    if (codebook := model.image_decoder.perceiver_resampler.codebook) is not None:
        fill_codebook(codebook, recipe.world.told)
    load_parts(model, recipe.parts)
    return model, Processor(model.config, tokenizer)


def _save(
    model: MMInterleaved, tokenizer: PreTrainedTokenizerFast, directory: Path, update: Update
) -> None:
    """Write a checkpoint; a packaged language model is referenced, not copied."""
    if base := BASES.get(model.config.name):
        base_model.save_trained(model, tokenizer, directory, base, update)
    else:
        store.save_model(model, tokenizer, directory)
