"""A table takes the steps that diffusers' scheduler takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.config.presets import preset
from model.image_decoder.schedule import (
    SCHEDULERS,
    Schedule,
    Trajectory,
    advance,
    make_scheduler,
)
from tests.model.device.accelerator import ACCELERATOR, no_host_copies

CONFIG = preset("tiny").image_decoder.scheduler


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unet(latents: Tensor) -> Tensor:
    """Any function of all channels that is not linear."""
    return torch.tanh(torch.einsum("ij,bjhw->bihw", 0.3 * noise(4, 4, seed=9), latents))


@pytest.mark.parametrize("num_steps", [1, 2, 4, 20])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_trajectory_takes_the_steps_of_its_scheduler(
    scheduler: str, prediction_type: str, num_steps: int
) -> None:
    config = {**CONFIG, "prediction_type": prediction_type}
    ours, theirs = (torch.Generator().manual_seed(1) for _ in range(2))
    plain = make_scheduler(scheduler, config, num_steps)
    schedule = Schedule.of(scheduler, config, num_steps)
    trajectory = Trajectory(schedule, noise(2, 4, 8, 8), ours)
    expected = noise(2, 4, 8, 8)
    assert torch.equal(trajectory.latents, expected)
    for timestep in plain.timesteps:
        assert not trajectory.done
        assert trajectory.timestep == timestep
        options = {"generator": theirs} if scheduler == "ddpm" else {}
        prediction = unet(expected)
        expected = plain.step(prediction, timestep, expected, **options).prev_sample
        advance([trajectory], unet(trajectory.latents))
        distance = (trajectory.latents - expected).norm() / expected.norm()
        assert distance < 5e-6
    assert trajectory.done
    assert trajectory.step == trajectory.num_steps == num_steps
    assert torch.equal(ours.get_state(), theirs.get_state())  # The same noise was drawn.


def test_trajectories_advance_together_as_alone() -> None:
    """Every scheduler, each at another step, in one product."""

    def start() -> list[Trajectory]:
        return [
            Trajectory(
                Schedule.of(name, CONFIG, 6),
                noise(1, 4, 8, 8, seed=index),
                torch.Generator().manual_seed(index),
            )
            for index, name in enumerate(SCHEDULERS)
        ]

    together, alone = start(), start()
    for index, (ours, theirs) in enumerate(zip(together, alone, strict=True)):
        for trajectory in (ours, theirs):
            for _ in range(index):
                advance([trajectory], unet(trajectory.latents))
    clean = advance(together, torch.cat([unet(trajectory.latents) for trajectory in together]))
    for index, trajectory in enumerate(alone):
        alone_clean = advance([trajectory], unet(trajectory.latents))
        assert torch.allclose(together[index].latents, trajectory.latents, atol=1e-6)
        assert torch.allclose(clean[index : index + 1], alone_clean, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_clean_latents_undo_the_noise(prediction_type: str) -> None:
    clean, spread = noise(2, 1, 4, 8, 8).unbind()
    config = {**CONFIG, "prediction_type": prediction_type}
    plain = make_scheduler("ddpm", config, 3)
    alpha = float(plain.alphas_cumprod[int(plain.timesteps[0])])
    signal, deviation = alpha**0.5, (1 - alpha) ** 0.5
    start = signal * clean + deviation * spread
    trajectory = Trajectory(Schedule.of("ddpm", config, 3), start, torch.Generator())
    velocity = signal * spread - deviation * clean
    prediction = spread if prediction_type == "epsilon" else velocity
    assert torch.allclose(advance([trajectory], prediction), clean, atol=1e-4)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_step_does_not_wait_for_its_device(scheduler: str) -> None:
    trajectory = Trajectory(
        Schedule.of(scheduler, CONFIG, 5, ACCELERATOR), noise(1, 4, 8, 8), torch.Generator()
    )
    with no_host_copies():
        while not trajectory.done:
            advance([trajectory], torch.empty(1, 4, 8, 8, device=ACCELERATOR))
    assert trajectory.latents.device == ACCELERATOR


def test_reduced_precision_ends_at_the_prediction() -> None:
    trajectory = Trajectory(Schedule.of("ddim", CONFIG, 2), noise(1, 4, 8, 8).bfloat16())
    advance([trajectory], noise(1, 4, 8, 8).bfloat16())
    assert trajectory.latents.dtype == torch.float32


def test_unknown_schedulers_and_step_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown scheduler 'euler'; known: ddpm, ddim"):
        make_scheduler("euler", CONFIG, 3)
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"num_inference_steps={steps}"):
            make_scheduler("ddpm", CONFIG, steps)


def test_schedulers_that_are_not_linear_are_refused() -> None:
    with pytest.raises(ValueError, match="thresholding"):
        Schedule.of("ddpm", {**CONFIG, "thresholding": True}, 3)
    with pytest.raises(ValueError, match="solver_order"):
        Schedule.of("dpmsolver++", {**CONFIG, "solver_order": 3}, 3)
