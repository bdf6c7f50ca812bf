"""`mmi train ablation`: train every variant, score it, write the table."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from model.checkpoint import store
from model.config import ConfigError
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.ablation.build import build
from model.training.ablation.evaluate import answered_details, drawn_stories
from model.training.ablation.pool import MixedSource, Pool, StorySource
from model.training.ablation.recipe import VARIANTS, AblationRecipe, Variant
from model.training.ablation.report import Scores, as_markdown, collect, summarise
from model.training.drawing import DrawingOptions
from model.training.features import FeatureBank
from model.training.objectives.language import LanguageObjective
from model.training.objectives.pictures import PictureObjective
from model.training.trainer import Trainer, TrainerConfig

_STORIES_PER_CHUNK = 24


class Ablation:
    """The variants of a recipe; finished ones are not repeated, a killed one goes on."""

    def __init__(self, recipe: AblationRecipe, directory: Path, console: Console) -> None:
        self.recipe, self.directory, self.console = recipe, directory, console
        first = build(recipe, VARIANTS[0], 0)
        self.processor = Processor(first.config, store.load_tokenizer(recipe.start))
        if len(self.processor.image_ids) != 1 + first.config.num_img_token:
            raise ConfigError("the tokenizer does not fit the preset")
        self.bank = FeatureBank(first.visual_tokenizer.eval())
        self.seen = Pool.draw_lots("seen", recipe.num_scenes, recipe.num_stories)
        number = recipe.num_questions // 4
        self.unseen = Pool.draw_lots("unseen", number, recipe.num_held_out_stories)

    def run(self) -> dict[str, list[Scores]]:
        """The scores of every variant, one entry for every seed."""
        results: dict[str, list[Scores]] = {variant.name: [] for variant in VARIANTS}
        for seed in self.recipe.text_seeds:
            for variant in VARIANTS:
                results[variant.name].append(self._scores(variant, seed))
        return results

    def _scores(self, variant: Variant, seed: int) -> Scores:
        place = self.directory / f"seed{seed}"
        # Text does not depend on what the decoder has: one language model serves two variants.
        text_place = place / f"text-{_word(variant.text)}"
        picture_place = place / f"text-{_word(variant.text)}-pictures-{_word(variant.pictures)}"
        files = [text_place / "scores.json"]
        if seed in self.recipe.picture_seeds:
            files.append(picture_place / "scores.json")
        if not all(file.is_file() for file in files):
            self.console.print(f"seed {seed}, synchronizer in: {variant.name}")
            model = build(self.recipe, variant, seed)
            self._learn_text(model, text_place, seed)
            _write(files[0], self._text_scores(model))
            if len(files) > 1:
                self._learn_pictures(model, picture_place, seed)
                _write(files[1], self._picture_scores(model))
        scores: dict[str, list[float]] = {}
        for file in files:
            scores |= json.loads(file.read_text())
        return scores

    def _learn_text(self, model: MMInterleaved, place: Path, seed: int) -> None:
        recipe = self.recipe
        model.visual_tokenizer.encoder.requires_grad_(False)
        objective = LanguageObjective(
            model,
            self.processor,
            recipe.text_batch_size,
            learn_prompt=False,
            vision_rate=0.5,
            source=MixedSource(self.seen, seed),
            bank=self.bank,
        )
        config = TrainerConfig(recipe.text_steps, recipe.text_rate, save_every=500, seed=seed)
        Trainer(objective, config, place).run()

    def _learn_pictures(self, model: MMInterleaved, place: Path, seed: int) -> None:
        recipe = self.recipe
        objective = PictureObjective(
            model,
            self.processor,
            recipe.picture_batch_size,
            chunks=-(-recipe.num_stories // _STORIES_PER_CHUNK),
            steps_per_chunk=10,
            seed=seed,
            source=StorySource(self.seen),
            bank=self.bank,
        )
        config = TrainerConfig(recipe.picture_steps, recipe.picture_rate, ema_decay=0.99, seed=seed)
        trainer = Trainer(objective, config, place)
        trainer.run()
        trainer.use_average()

    def _text_scores(self, model: MMInterleaved) -> Scores:
        number = self.recipe.num_questions
        return collect(answered_details(model, self.processor, self.bank, self.unseen, number))

    def _picture_scores(self, model: MMInterleaved) -> Scores:
        options = DrawingOptions(self.recipe.num_inference_steps, self.recipe.guidance_scale)
        return collect(drawn_stories(model, self.processor, self.unseen.stories, options))


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


def _write(path: Path, scores: Scores) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scores) + "\n")
