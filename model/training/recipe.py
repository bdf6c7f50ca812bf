"""A training recipe: a TOML file with the phases of `pretrain` and `sft`.

preset = "tiny"
world = "drawn"

[[pretrain]]
phase = "language"          # one of PHASES
steps = 3000
batch_size = 8
learning_rate = 2e-3
weights = { story = 0.3, caption = 0.2 }
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from model.checkpoint.packaged.base_model import BASES
from model.config.schema import ConfigError
from model.training.optimizer import OPTIMIZERS, OptimizerName
from model.training.parameters import PRETRAINED
from model.training.world.drawn.world import DrawnWorld
from model.training.world.registry import world_of
from model.training.world.world import World

PHASES = (
    "encoder",
    "autoencoder",
    "vision",
    "cells",
    "condense",
    "align",
    "language",
    "sketch",
    "drawing",
    "reading",
    "pictures",
    "beginning",
    "joint",
)
STAGES = ("pretrain", "sft")
IMAGE_TOKENS = "image tokens"
_OF_PRETRAINED = ("low_rank", "chat_weight")  # Options that need a pre-trained language model.


@dataclass(frozen=True)
class Phase:
    """One objective for some steps.

    Attributes:
        optimizer: "adamw", or "muon" for matrices; the learning rate is AdamW's.
        weights: mixture of the tasks, and of shards as `shards:PATTERN`.
        learn_prompt: whether the user's words are learned as well.
        only_after_image: leave out the text before the first image.
        by_answer: weights every answer equally in `language`, whatever its length.
        turn_weight: weight in `language` of the first word after an image, which decides whether
            another image follows.
        vision_rate: learning rate of the visual tokenizer relative to the language model's.
        num_pictures: number of images in the pool, where images are encoded once; in `beginning`
            the number of examples.
        frozen: parts that do not learn. In `joint`: "language", "vision". In `language`: "vision",
            the encoder, which then reads each of `num_pictures` images once. In `pictures`:
            "image tokens".
        image_token_weight: weight of the code loss of image tokens, in `language` and `pictures`.
            In `pictures` the denoising loss then does not train them.
        ordinal_weight: weight in `language` of the loss that makes visual tokens hold the number of
            their image.
        foreground_weight: weight of places with a thing in the denoising loss.
        true_sketches: share of images in `drawing` whose tokens are their true sketch, in place of
            what the perceiver composes. Only a world that sketches its images has them.
        decoder_only: freeze the autoencoder's encoder.
        crop: side in pixels of the random square of each image that `autoencoder` trains on, a
            multiple of its stride; 0: the whole image.
        spell_out: in `align` each visual token is one word, not the sum of all words of its place.
        spread: `align` starts with a perceiver that tells places apart, as `condense` does.
        chat_weight: weight in `language` of the divergence from the untouched language model on its
            own answers to plain requests.
        share: of the time that the whole recipe gets with a limit (`mmi train all --minutes`).
        low_rank: rank of the update of a pre-trained language model that `language` learns; it goes
            on with the update of an earlier phase.
    """

    phase: str
    steps: int = 1
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup_steps: int = 30
    ema_decay: float = 0.0
    optimizer: OptimizerName = "adamw"
    weights: Mapping[str, float] = field(default_factory=dict)
    learn_prompt: bool = True
    only_after_image: bool = False
    by_answer: bool = False
    turn_weight: float = 1.0
    vision_rate: float = 0.2
    num_pictures: int = 8000
    frozen: tuple[str, ...] = ()
    image_token_weight: float = 0.0
    ordinal_weight: float = 0.0
    foreground_weight: float = 1.0
    true_sketches: float = 0.0
    decoder_only: bool = True
    crop: int = 0
    spell_out: bool = False
    spread: bool = False
    chat_weight: float = 0.0
    share: float = 1.0
    low_rank: int = 0

    def __post_init__(self) -> None:
        """Refuse phases and parts that do not exist."""
        if self.phase not in PHASES:
            raise ConfigError(f"unknown phase {self.phase!r}; known: {', '.join(PHASES)}")
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"unknown optimizer {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}"
            )
        if unknown := set(self.frozen) - {*PRETRAINED, IMAGE_TOKENS}:
            known = (*PRETRAINED, IMAGE_TOKENS)
            raise ConfigError(f"unknown frozen parts {sorted(unknown)}; known: {known}")
        for option in _OF_PRETRAINED:
            if getattr(self, option) and self.phase != "language":
                raise ConfigError(f"{option}: {self.phase!r} does not train the language model")

    def scaled(self, factor: int) -> Self:
        """The phase with batches `factor` times as large and as many fewer steps."""
        return replace(
            self,
            steps=max(1, self.steps // factor),
            batch_size=self.batch_size * factor,
            learning_rate=self.learning_rate * factor**0.5,
        )


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run.

    Attributes:
        preset: sizes; `storybook` has a pre-trained language model, which stays frozen.
        world: where images and texts come from, a name of `world_of`.
        seed: of everything that is random.
        finished: phases of `pretrain` that need not be run: what they learned is in `parts`.
        parts: files of tensors that a fresh model starts with (`model.training.weights.parts`);
            a path in the file is relative to the file.
        workers: processes that make batches ahead, in phases whose images are all new.
        half: multiply in bfloat16 on GPUs, and on CPUs that have instructions for it.
    """

    preset: str
    world: World = field(default_factory=DrawnWorld)
    seed: int = 0
    finished: int = 0
    parts: tuple[Path, ...] = ()
    half: bool = False
    workers: int = 0
    pretrain: tuple[Phase, ...] = ()
    sft: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what needs a pre-trained language model where there is none."""
        phases = (*self.pretrain, *self.sft)
        if any(phase.phase == "beginning" for phase in phases) and self.preset not in BASES:
            raise ConfigError(f"beginning: {self.preset!r} has no pre-trained language model")
        for option in _OF_PRETRAINED:
            has = any(getattr(phase, option) for phase in phases)
            if has and self.preset not in BASES:
                raise ConfigError(f"{option}: {self.preset!r} has no pre-trained language model")

    def to_run(self, stage: str) -> list[tuple[int, Phase]]:
        """The phases of a stage that are not finished, with their numbers."""
        phases: tuple[Phase, ...] = getattr(self, stage)
        return list(enumerate(phases))[self.finished if stage == STAGES[0] else 0 :]

    def scaled(self, factor: int) -> Self:
        """The recipe with batches `factor` times as large and as many fewer steps.

        For a GPU, which small batches keep waiting. Rates grow with the square root.
        """
        return replace(
            self,
            pretrain=tuple(phase.scaled(factor) for phase in self.pretrain),
            sft=tuple(phase.scaled(factor) for phase in self.sft),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe.

        Raises:
            ConfigError: it holds unknown keys or phases, or names an unknown world.
        """
        document = tomllib.loads(path.read_text())
        document |= {name: tuple(map(_phase, document.get(name, ()))) for name in STAGES}
        _refuse_unknown(document, cls)
        if "world" in document:
            document["world"] = world_of(document["world"])
        document["parts"] = tuple(path.parent / name for name in document.get("parts", ()))
        return cls(**document)


def _phase(document: Mapping[str, Any]) -> Phase:
    _refuse_unknown(document, Phase)
    return Phase(**document)


def _refuse_unknown(document: Mapping[str, Any], kind: type[Phase] | type[Recipe]) -> None:
    if unknown := set(document) - {entry.name for entry in fields(kind)}:
        raise ConfigError(f"{kind.__name__.lower()}: unknown keys {sorted(unknown)}")
