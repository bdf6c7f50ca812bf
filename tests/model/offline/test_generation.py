import pytest
import torch

from model.mm_interleaved import Batch
from model.offline.generation import (
    TextGeneration,
    generate_scores,
    generate_texts,
    image_conditions,
)
from tests.model import golden

RUNS = golden.document()["sets"]["generate_texts"]["runs"]
LOOP = golden.tensors("interleaved_loop")
SAMPLES = range(len(golden.tensors("generate_scores")["out/scores"]))


def replayable(number):
    """Whether all images before a text round of the loop were recorded as they were fed back."""
    earlier = (r for r in range(number) if f"round{r}/output_ids" not in LOOP)
    return all(f"round{r}/fed_back_image_u8" in LOOP for r in earlier)


ROUNDS = [
    number
    for number in range(golden.document()["sets"]["interleaved_loop"]["params"]["rounds"])
    if f"round{number}/output_ids" in LOOP and replayable(number)
]


@pytest.fixture(scope="module")
def model():
    return golden.model().requires_grad_(False)


def prompt(recorded):
    return Batch(
        recorded["text_ids"],
        golden.images()[recorded["image_index"]],
        recorded["num_image_per_seq"],
        recorded["attention_mask"],
    )


@pytest.mark.parametrize("run", RUNS)
def test_texts_match_the_official_ones(model, run):
    recorded = golden.part(golden.tensors("generate_texts"), f"{run}/")
    names = ("max_length", "min_length", "num_beams", "repetition_penalty", "length_penalty")
    options = TextGeneration(**{name: RUNS[run][name] for name in names if name in RUNS[run]})
    steps = []
    ids = generate_texts(model, prompt(recorded), options, step_logits=steps)
    assert torch.equal(ids, recorded["output_ids"])
    if "step_logits" in recorded:
        golden.assert_close(run, torch.stack(steps, 1), recorded["step_logits"], 2e-4)


@pytest.mark.parametrize("number", ROUNDS)
def test_texts_of_the_interleaved_loop_match_the_official_ones(model, number):
    recorded = LOOP
    call = golden.document()["sets"]["interleaved_loop"]
    text_ids, pixels = recorded["in/text_ids"], golden.images()[recorded["in/image_index"]]
    for earlier in range(number):
        text_ids = recorded.get(f"round{earlier}/text_ids_after", text_ids)
        if (drawn := recorded.get(f"round{earlier}/fed_back_image_u8")) is not None:
            pixels = torch.cat((pixels, drawn.unsqueeze(0).float() / 255))
    options = TextGeneration(
        max_length=call["params"]["max_length"],
        min_length=call["params"]["min_length"],
        num_beams=1,
        repetition_penalty=call["repetition_penalty"],
    )
    steps = []
    batch = Batch(text_ids, pixels, torch.tensor([len(pixels)]))
    ids = generate_texts(model, batch, options, step_logits=steps)
    assert torch.equal(ids, recorded[f"round{number}/output_ids"])
    theirs = recorded[f"round{number}/step_logits"]
    golden.assert_close(f"round {number}", torch.stack(steps, 1), theirs, 2e-3)


@pytest.mark.parametrize("sample", SAMPLES)
def test_scores_match_the_official_ones(model, sample):
    recorded = golden.tensors("generate_scores")
    text_ids = recorded[f"in/text_ids_{sample}"].unsqueeze(0)
    image = golden.images()[recorded["in/image_index"][sample : sample + 1]]
    scores = generate_scores(
        model,
        Batch(text_ids, image, torch.tensor([1])),
        recorded[f"in/options_ids_{sample}"],
        recorded[f"in/options_attn_masks_{sample}"],
    )
    golden.assert_close("scores", scores, recorded["out/scores"][sample, 0], 2e-4)


def test_conditions_of_chosen_images(model):
    recorded = golden.part(golden.tensors("full_model"), "out/")
    chosen = recorded["imgdec_mmfs_mask_gen"].flatten().nonzero().flatten()[:2].flip(0)
    conditions = image_conditions(model, golden.batch(), chosen)
    tokens = model.image_tokens(conditions.context_NKD, conditions.context_mask_NK)
    golden.assert_close("chosen", tokens, recorded["conditioning_gen"][chosen], 1e-4)
    assert conditions.visible_N1.flatten().tolist() == [True, True]


def test_sampling_repeats_with_its_generator_and_respects_its_limits(model):
    run = next(name for name in RUNS if name.startswith("single") and name.endswith("_rp1.3"))
    recorded = golden.part(golden.tensors("generate_texts"), f"{run}/")
    options = TextGeneration(
        max_length=6, min_length=20, num_beams=1, use_nucleus_sampling=True, top_p=0.8, top_k=5
    )
    steps = []
    texts = [
        generate_texts(
            model, prompt(recorded), options, torch.Generator().manual_seed(seed), step_logits=steps
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])
    special = model.config.special_tokens
    assert texts[0].shape == (1, 7)
    assert not {special.eos_token_id, special.soi_token_id} & set(texts[0].flatten().tolist())
    for number, logits in enumerate(steps[: options.max_length]):
        stops = [special.eos_token_id, special.soi_token_id]
        best = logits[0].index_fill(0, torch.tensor(stops), -torch.inf).topk(5).indices
        assert texts[0][0, number + 1] in best


def test_beams_do_not_sample():
    with pytest.raises(ValueError, match="num_beams=1"):
        TextGeneration(use_nucleus_sampling=True)
