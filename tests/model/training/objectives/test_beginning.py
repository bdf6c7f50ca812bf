"""The head learns when to begin an image, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model.config.schema import ConfigError
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.objectives import beginning
from model.training.objectives.beginning import BeginningObjective
from model.training.recipe import Phase, Recipe
from tests.model.training.objectives.fixed_batch import falls, mixture


@pytest.fixture
def objective(
    model: MMInterleaved, processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> BeginningObjective:
    monkeypatch.setattr(beginning, "_EXAMPLES", 4)
    phase = Phase("beginning", num_pictures=8)
    return BeginningObjective(model, processor, phase, mixture("beginning"))


def test_one_row_of_the_head_learns_and_nothing_else(
    objective: BeginningObjective, model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    falls(objective, tmp_path, 3e-2, 0.9)
    row = processor.special.soi_token_id - model.text_decoder.num_old
    for name, tensor in model.state_dict().items():
        if name.startswith("text_decoder.head_new."):
            assert not torch.equal(tensor[row], before[name][row])
            tensor, before[name] = tensor.clone(), before[name].clone()
            tensor[row] = before[name][row] = 0
        assert torch.equal(tensor, before[name]), name


def test_images_begin_where_the_answers_of_the_world_have_one(
    objective: BeginningObjective, model: MMInterleaved
) -> None:
    hidden_MD, others_M, begins_M = objective._places
    examples = [example for draw in (0, 1) for example in objective.source.draw(draw, 4)]
    num_images = sum(len(e.images) - e.num_given_images for e in examples)
    assert int(begins_M.sum()) == num_images
    assert len(hidden_MD) == len(others_M) == len(begins_M) > 10 * num_images
    # The row of the token is not among the others.
    weight = model.text_decoder.head_new.weight.detach().clone()
    again = BeginningObjective(model, objective.processor, objective.phase, objective.source)
    with torch.no_grad():
        model.text_decoder.head_new.weight[:1] += 1.0
        torch.testing.assert_close(again._places[1], others_M, atol=1e-4, rtol=1e-4)
        model.text_decoder.head_new.weight.copy_(weight)


def test_what_is_said_to_plain_requests_begins_no_image(
    objective: BeginningObjective, model: MMInterleaved, processor: Processor
) -> None:
    bias_N = model.text_decoder.head_new.bias.detach()
    row = processor.special.soi_token_id - model.text_decoder.num_old
    bias_N[row] = before = 95.0 + 50  # It would begin an image at once.
    said = list(objective._of_plain_requests())
    assert bias_N[row] == before
    assert not any(bool(begins_M.any()) for _, _, begins_M in said)
    assert sum(len(hidden_MD) for hidden_MD, _, _ in said) > 4


def test_where_no_image_begins_its_odds_are_held_down_by_a_margin(
    objective: BeginningObjective, model: MMInterleaved, processor: Processor
) -> None:
    row = processor.special.soi_token_id - model.text_decoder.num_old
    odds_M = torch.tensor([3.0, -3.0])
    others_M = model.text_decoder.new_tokens()[1][row].detach() - odds_M
    hidden_MD = torch.zeros(2, model.text_decoder.head_new.in_features)
    vars(objective)["_places"] = hidden_MD, others_M, torch.tensor([True, False])
    expected = F.softplus(torch.tensor(-3.0)) + F.softplus(torch.tensor(-3.0 + beginning._MARGIN))
    torch.testing.assert_close(objective.losses(0)["loss"], expected, atol=1e-3, rtol=1e-3)


def test_a_model_from_nothing_has_no_such_phase() -> None:
    phase = Phase("beginning")
    assert Recipe("storybook", sft=(phase,)).sft == (phase,)
    with pytest.raises(ConfigError, match="beginning: 'tiny' has no pre-trained language model"):
        Recipe("tiny", sft=(phase,))
