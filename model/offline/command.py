"""`mmi generate --offline`: the official inference loop in this process."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from model.offline.story import OfflineOptions, Round, Story
    from model.processor import Processor

_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
RESULTS = "results.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the offline loop; the defaults are the official ones."""
    group = parser.add_argument_group("with --offline")
    group.add_argument("--rounds", type=int, default=2, help="number of texts and images to add")
    group.add_argument("--force-image", action="store_true", help="end every text with an image")
    group.add_argument("--auto-end", action="store_true", help="stop at the end of the text")
    group.add_argument("--replace-text", action="store_true", help="use the example's own texts")
    group.add_argument(
        "--images", type=int, default=1, help="images generated in a round; the first is kept"
    )
    group.add_argument(
        "--option",
        action="append",
        default=[],
        help="score this continuation instead of generating; repeat it to compare several",
    )
    group.add_argument("--greedy", action="store_true", help="take the most likely token")
    group.add_argument("--beams", type=int, default=1, help="beams of a beam search; 1 samples")
    group.add_argument("--top-p", type=float, default=0.9)
    group.add_argument("--min-length", type=int, default=8)
    group.add_argument("--repetition-penalty", type=float, default=1.3)
    group.add_argument("--guidance-rescale", type=float, default=0.0)
    group.add_argument("--scheduler", default="ddpm")
    group.add_argument("--image-root", type=Path, help="directory of an example's image paths")


def run(args: argparse.Namespace) -> int:
    """Run the stories of the content: print texts, save images and results.

    With `--option` print the log-likelihood of each option instead.
    """
    from model.checkpoint.load import load_model
    from model.checkpoint.store import CheckpointError, load_tokenizer
    from model.offline.story import OfflineEngine
    from model.processor import Processor

    console = Console()
    try:
        options = options_of(args)
        model = load_model(args.checkpoint)
        processor = Processor(model.config, load_tokenizer(args.checkpoint))
        stories = read_stories(args, processor)
    except (CheckpointError, ValueError, OSError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, object]] = []
    for number, story in enumerate(stories):
        engine = OfflineEngine(model, processor, options)
        if args.option:
            scores = engine.score(story, args.option)
            results.append({"scores": scores})
            for option, score in zip(args.option, scores, strict=True):
                console.print(f"{score:.3f} {option}", markup=False, highlight=False)
            continue
        parts: list[str] = []
        for turn, done in enumerate(engine.run(story)):
            parts.extend(save(done, args.out, f"{number}_{turn}"))
            console.print(parts[-1], markup=False, highlight=False)
        results.append({"generate_results": parts})
    (args.out / RESULTS).write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    console.print(f"saved {args.out / RESULTS}", highlight=False)
    return 0


def options_of(args: argparse.Namespace) -> OfflineOptions:
    """The loop's options; what is not given is the official default.

    Raises:
        ValueError: options exclude one another.
    """
    from model.offline.generation import TextGeneration
    from model.offline.story import OfflineOptions

    given: dict[str, Any] = {
        "max_length": args.max_tokens,
        "temperature": args.temperature,
    }
    text = TextGeneration(
        **{"max_length": 90} | {k: v for k, v in given.items() if v is not None},
        min_length=args.min_length,
        num_beams=args.beams,
        use_nucleus_sampling=not args.greedy and args.beams == 1,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
    )
    drawing = {"num_inference_steps": args.steps, "guidance_scale": args.guidance}
    return OfflineOptions(
        text=text,
        **{k: v for k, v in drawing.items() if v is not None},
        guidance_rescale=args.guidance_rescale,
        scheduler=args.scheduler,
        num_images=args.images,
        mode="generate_images" if args.only == "image" else "generate_texts",
        force_image=args.force_image,
        replace_text=args.replace_text,
        auto_end=args.auto_end,
        num_iter=args.rounds,
        seed=args.seed,
    )


def read_stories(args: argparse.Namespace, processor: Processor) -> list[Story]:
    """The stories of an official example file, or the one that the content begins.

    Raises:
        ValueError: a story does not fit the model.
        OSError: a file cannot be read.
    """
    from PIL import Image

    from model.offline.story import Story, read_annotations
    from model.segments import ImageSegment, Segment, TextSegment

    paths = [Path(argument.removeprefix("@")) for argument in args.content]
    if len(paths) == 1 and paths[0].suffix == ".json":
        return read_annotations(paths[0], processor, args.image_root)
    context: list[Segment] = []
    for argument, path in zip(args.content, paths, strict=True):
        if path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            with Image.open(path) as image:
                context.append(ImageSegment(image.convert("RGB"), digest))
        else:
            context.append(TextSegment(argument))
    story = Story.from_context(context, processor)
    return [story.asking_for_image(processor) if args.only == "image" else story]


def save(done: Round, directory: Path, name: str) -> list[str]:
    """A round as the results list it: its text, or the files of its images."""
    if not done.images:
        return [done.text]
    names = [f"{name}_{number}.png" for number in range(len(done.images))]
    for file_name, image in zip(names, done.images, strict=True):
        image.save(directory / file_name)
    return names
