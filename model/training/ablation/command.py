"""`mmi train ablation`: train every variant, score it, write the table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from model.checkpoint import store
from model.config.schema import ConfigError
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.ablation.results import (
    Scores,
    answered_details,
    as_markdown,
    collect,
    generated_stories,
    summarise,
)
from model.training.ablation.variants import VARIANTS, AblationRecipe, Variant, build
from model.training.data.features import FeatureBank
from model.training.data.mixture import InOrder, Mixture
from model.training.evaluation.images import ImageSettings
from model.training.objectives.decoder.images import ImageObjective
from model.training.objectives.language import LanguageObjective
from model.training.recipe import Phase
from model.training.trainer import Trainer, TrainerConfig
from model.training.world.drawn.world import DrawnWorld, Stock

_WORLD = DrawnWorld()
_WORDS = {"words:detail_question": 0.8, "words:caption": 0.2}
_WEIGHTS = {"detail_question": 0.7, "caption": 0.24, "story": 0.06}


class Ablation:
    """The variants of a recipe; finished ones are not repeated, a killed one resumes."""

    def __init__(self, recipe: AblationRecipe, directory: Path, console: Console) -> None:
        self.recipe, self.directory, self.console = recipe, directory, console
        first = build(recipe, VARIANTS[0], 0)
        self.processor = Processor(first.config, store.load_tokenizer(recipe.start))
        if len(self.processor.image_ids) != 1 + first.config.num_img_token:
            raise ConfigError("the tokenizer does not fit the preset")
        self.bank = FeatureBank(first.visual_tokenizer.eval())
        self.seen = Stock.sample("seen", _WORLD.objects, recipe.num_scenes, recipe.num_stories)
        number = recipe.num_questions // 4
        self.unseen = Stock.sample("unseen", _WORLD.objects, number, recipe.num_held_out_stories)

    def run(self) -> dict[str, list[Scores]]:
        """The scores of every variant, one entry for every seed."""
        results: dict[str, list[Scores]] = {variant.name: [] for variant in VARIANTS}
        for seed in self.recipe.text_seeds:
            # Text does not depend on the decoder: one language model for two variants.
            texts = {on: self._text_scores(Variant(on, images=False), seed) for on in (False, True)}
            for variant in VARIANTS:
                scores = dict(texts[variant.text])
                if seed in self.recipe.picture_seeds:
                    scores |= self._image_scores(variant, seed)
                results[variant.name].append(scores)
        return results

    def _text_scores(self, variant: Variant, seed: int) -> Scores:
        file = self._text_place(variant, seed) / "scores.json"
        if not file.is_file():
            self.console.print(f"seed {seed}, text, synchronizer in: {variant.name}")
            model = self._learned_text(variant, seed)
            number = self.recipe.num_questions
            _write(file, answered_details(model, self.processor, self.bank, self.unseen, number))
        return json.loads(file.read_text())

    def _image_scores(self, variant: Variant, seed: int) -> Scores:
        place = self._text_place(variant, seed).with_name(
            f"text-{_word(variant.text)}-pictures-{_word(variant.images)}"
        )
        file = place / "scores.json"
        if not file.is_file():
            self.console.print(f"seed {seed}, pictures, synchronizer in: {variant.name}")
            model = self._learned_text(variant, seed)
            self._learn_images(model, place, seed)
            options = ImageSettings(self.recipe.num_inference_steps, self.recipe.guidance_scale)
            _write(file, generated_stories(model, self.processor, self.unseen.stories, options))
        return json.loads(file.read_text())

    def _text_place(self, variant: Variant, seed: int) -> Path:
        return self.directory / f"seed{seed}" / f"text-{_word(variant.text)}"

    def _learned_text(self, variant: Variant, seed: int) -> MMInterleaved:
        """The variant with its language model trained, or loaded if it was trained before.

        First on words alone, as the published one is pre-trained on text, then on images.
        """
        recipe, place = self.recipe, self._text_place(variant, seed)
        model = build(recipe, variant, seed)
        phase = Phase(
            "language", batch_size=recipe.text_batch_size, learn_prompt=False, vision_rate=0.0
        )
        mixture = Mixture(_WORDS, _WORLD, seed)
        words = LanguageObjective(model, self.processor, phase, mixture, _WORLD.told)
        config = TrainerConfig(recipe.word_steps, recipe.text_rate, seed=seed)
        Trainer(words, config, place / "words").run()
        model.requires_grad_(True)
        source = Mixture(_WEIGHTS, _WORLD, seed, self.seen)
        phase = replace(phase, vision_rate=0.5, ordinal_weight=1.0)
        images = LanguageObjective(model, self.processor, phase, source, _WORLD.told, self.bank)
        Trainer(images, replace(config, steps=recipe.text_steps), place).run()
        return model

    def _learn_images(self, model: MMInterleaved, place: Path, seed: int) -> None:
        recipe = self.recipe
        phase = Phase("pictures", batch_size=recipe.picture_batch_size)
        stories = InOrder(self.seen.stories)
        objective = ImageObjective(
            model, self.processor, phase, stories, _WORLD.told, seed, self.bank
        )
        config = TrainerConfig(recipe.picture_steps, recipe.picture_rate, ema_decay=0.99, seed=seed)
        trainer = Trainer(objective, config, place)
        trainer.run()
        trainer.use_average()


def run_ablation(config: Path, runs: Path) -> int:
    """Run what is missing; write `ablation.json` and `ablation.md` in the run's directory."""
    directory = runs / config.stem
    results = Ablation(AblationRecipe.load(config), directory, Console()).run()
    table = {name: summarise(scores) for name, scores in results.items()}
    (directory / "ablation.json").write_text(json.dumps(table, indent=2) + "\n")
    (directory / "ablation.md").write_text(as_markdown(table))
    Console().print(f"written: {directory / 'ablation.md'}")
    return 0


def _word(is_on: bool) -> str:
    return "on" if is_on else "off"


def _write(path: Path, rows: Iterable[tuple[str, float]]) -> None:
    path.write_text(json.dumps(collect(rows)) + "\n")
