"""A training recipe: a TOML file with the phases of `pretrain` and `sft`.

preset = "tiny"
objects = "drawn"

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
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from model.checkpoint.packaged.base_model import BASES
from model.config.schema import ConfigError
from model.training.parameters import PRETRAINED
from model.training.world.drawn.painting.objects import FONT_PATH, object_sets
from model.training.world.drawn.world import DrawnWorld

PHASES = (
    "encoder",
    "autoencoder",
    "vision",
    "condense",
    "align",
    "language",
    "pictures",
    "joint",
)
STAGES = ("pretrain", "sft")
IMAGE_TOKENS = "image tokens"


@dataclass(frozen=True)
class Phase:
    """One objective for some steps.

    Attributes:
        weights: mixture of the tasks, and of shards as `shards:PATTERN`.
        learn_prompt: whether the user's words are learned as well.
        only_after_image: leave out the text before the first picture.
        by_answer: every answer counts alike in `language`, however long it is.
        turn_weight: how many times the first word after a picture counts in `language`; with it the
            model decides whether another picture follows.
        vision_rate: learning rate of the visual tokenizer relative to the language model's.
        num_pictures: how many pictures to choose from, where they are encoded once.
        frozen: parts that `joint` leaves as they are, "language", "vision"; and in `language`,
            "vision" for an encoder that stays and sees each of `num_pictures` pictures once; and in
            `pictures`, "image tokens" for those that `language` learned.
        image_token_weight: of the image tokens' distance from their codes, in `language`, and in
            `pictures`, where the decoder's loss then leaves them alone.
        ordinal_weight: of visual tokens saying which picture they belong to, in `language`.
        foreground_weight: how much more a place with a thing counts for the decoder.
        redrawn: the share of stories in `pictures` whose pictures are copied from ones before them
            as the model draws them at the phase's start, not from true ones.
        decoder_only: leave the autoencoder's encoder as it is.
        spell_out: visual tokens are single words in `align`, not all the words of a place at once.
        low_rank: rank of an update of a pre-trained language model that `language` learns.
    """

    phase: str
    steps: int = 1
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup_steps: int = 30
    ema_decay: float = 0.0
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
    redrawn: float = 0.0
    decoder_only: bool = True
    spell_out: bool = False
    low_rank: int = 0

    def __post_init__(self) -> None:
        """Refuse phases and parts that do not exist."""
        if self.phase not in PHASES:
            raise ConfigError(f"unknown phase {self.phase!r}; known: {', '.join(PHASES)}")
        if unknown := set(self.frozen) - {*PRETRAINED, IMAGE_TOKENS}:
            known = (*PRETRAINED, IMAGE_TOKENS)
            raise ConfigError(f"unknown frozen parts {sorted(unknown)}; known: {known}")
        if self.low_rank and self.phase != "language":
            raise ConfigError(f"low_rank: {self.phase!r} does not train the language model")


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run needs to know.

    Attributes:
        preset: sizes; `smol` has a pre-trained language model, which stays frozen.
        objects: the set of things in the world's pictures, or several joined by "+".
        seed: of everything that is random.
        donor: a checkpoint whose vision and image decoder a fresh model starts with; in the file,
            relative to its place.
        half: multiply in bfloat16, which pays where the hardware can (AVX512-BF16, AMX, GPUs).
    """

    preset: str
    objects: str = "drawn"
    seed: int = 0
    donor: Path | None = None
    half: bool = False
    pretrain: tuple[Phase, ...] = ()
    sft: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        """Refuse sets of objects that are unknown."""
        try:
            object_sets(self.objects)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if any(phase.low_rank for phase in (*self.pretrain, *self.sft)) and (
            self.preset not in BASES
        ):
            raise ConfigError(f"low_rank: {self.preset!r} has no pre-trained language model")

    @property
    def world(self) -> DrawnWorld:
        """The world that the recipe's examples come from."""
        return DrawnWorld(self.objects)

    def check_objects(self) -> None:
        """Make sure that the pictures of the objects can be had here.

        Raises:
            ConfigError: this machine lacks the font that they come from.
        """
        if lacking := [each.name for each in object_sets(self.objects) if not each.available()]:
            raise ConfigError(f"pictures of {', '.join(lacking)} need a font: {FONT_PATH}")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe.

        Raises:
            ConfigError: it holds unknown keys or phases.
        """
        document = tomllib.loads(path.read_text())
        document |= {name: tuple(map(_phase, document.get(name, ()))) for name in STAGES}
        _refuse_unknown(document, cls)
        if "donor" in document:
            document["donor"] = path.parent / document["donor"]
        return cls(**document)


def _phase(document: Mapping[str, Any]) -> Phase:
    _refuse_unknown(document, Phase)
    return Phase(**document)


def _refuse_unknown(document: Mapping[str, Any], kind: type[Phase] | type[Recipe]) -> None:
    if unknown := set(document) - {entry.name for entry in fields(kind)}:
        raise ConfigError(f"{kind.__name__.lower()}: unknown keys {sorted(unknown)}")
