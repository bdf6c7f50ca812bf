"""The training losses against the recorded numbers of the official implementation."""

import pytest
import torch

from model.text_decoder import context
from model.training.objectives import losses
from model.training.objectives.losses import (
    TrainingNoise,
    denoising_error,
    image_loss,
    joint_loss,
    text_loss,
)
from model.training.parameters import freeze_pretrained
from tests.model import golden


@pytest.fixture(scope="module")
def model():
    return golden.model().requires_grad_(False)


@pytest.fixture(scope="module")
def hidden(model):
    return model(golden.batch()).hidden_BLD


def training_noise(recorded, num):
    uncond = recorded.get("uncond_rand", torch.ones(num, 1, 1))
    return TrainingNoise(
        uncond, recorded["vae_posterior_noise"], recorded["noise"], recorded["timesteps"]
    )


def test_training_draws_in_the_official_order(model):
    recorded = golden.tensors("train_forward")
    torch.manual_seed(golden.document()["sets"]["train_forward"]["manual_seed"])
    drawn = TrainingNoise.draw(len(golden.images()), model.config.image_decoder)
    assert torch.equal(drawn.uncond_N11, recorded["uncond_rand"])
    assert torch.equal(drawn.posterior_NCHW, recorded["vae_posterior_noise"])
    assert torch.equal(drawn.noise_NCHW, recorded["noise"])
    assert torch.equal(drawn.timesteps_N, recorded["timesteps"])


def test_training_losses_match_the_official_ones(model, monkeypatch):
    recorded = golden.tensors("train_forward")
    seen = {}
    monkeypatch.setattr(losses, "predict", record(losses.predict, seen))
    found = joint_loss(
        model,
        golden.batch(documents_apart=True),
        golden.decoder_images(),
        noise=training_noise(recorded, len(golden.images())),
    )
    golden.assert_close("loss_txt", found.text, recorded["loss_txt"], 1e-4)
    golden.assert_close("loss_img", found.image, recorded["loss_img"], 1e-4)
    golden.assert_close("loss", found.total, recorded["loss"], 1e-3)
    (_, latents, *_), (prediction, target) = seen["arguments"], seen["result"]
    golden.assert_recorded("vae_latents_scaled", latents, recorded, 1e-4)
    golden.assert_recorded("model_pred", prediction, recorded, 2e-4)
    errors = (prediction - target).square().mean((1, 2, 3))
    golden.assert_close("per_image_mse", errors, recorded["per_image_mse"], 1e-4)
    # An image whose context is only `<bos><soi>` does not count.
    contexts = golden.tensors("full_model")["out/context_attention_mask_train"]
    counted = recorded["image_loss_mask_variant/mask"] * (contexts.sum(1) > 2)
    expected = recorded["image_loss_mask_variant/loss_img"]
    golden.assert_close("image_loss_mask", (errors * counted).mean(), expected, 1e-4)


def record(function, seen):
    """The function, noting what it was called with and what it returned."""

    def recording(*arguments):
        seen["arguments"], seen["result"] = arguments, function(*arguments)
        return seen["result"]

    return recording


LABEL_RULES = {
    "default": context.LabelRules(),
    "int_offset": None,
    "list_offset": None,
    "ignore_noimage": context.LabelRules(only_after_image=True),
}


@pytest.mark.parametrize("variant", LABEL_RULES)
def test_text_losses_match_the_official_ones(model, hidden, variant):
    recorded = golden.part(golden.tensors("train_forward"), "txt/")
    batch = golden.batch()
    theirs = recorded[f"gt_text_ids_{variant}"]
    rules = LABEL_RULES[variant]
    if variant == "list_offset":
        rules = context.LabelRules(golden.document()["sets"]["train_forward"]["list_offset"])
    if variant == "int_offset":
        rules = context.LabelRules(recorded_offset(recorded))
    labels = context.training_labels(
        batch.text_ids_BL, batch.attention_mask_BL, model.config.special_tokens, rules
    )
    assert torch.equal(labels, theirs)
    loss = text_loss(model, hidden, batch, labels)
    golden.assert_close(variant, loss, recorded[f"loss_txt_{variant}"], 1e-4)


def recorded_offset(recorded):
    """The offset is not recorded: it follows from the last label that it left out."""
    left_out = recorded["gt_text_ids_int_offset"] != recorded["gt_text_ids_default"]
    return max(left_out.nonzero()[:, 1].tolist(), default=-2) + 2


def test_training_gradients_match_the_official_ones():
    recorded, norms = golden.tensors("train_grads"), golden.train_grad_norms()
    batch, images = golden.row_of_batch(golden.document()["sets"]["train_grads"]["row"])
    noise = training_noise(recorded, len(batch.pixels_N3SS))
    model = golden.fresh_model()
    freeze_pretrained(model)
    found = joint_loss(model, batch, golden.decoder_images()[images], noise=noise)
    found.total.backward()
    golden.assert_close("loss", found.total, recorded["loss"], 1e-3)
    parameters = dict(model.named_parameters())
    for name, theirs in golden.part(recorded, "grad/").items():
        tolerance = 2e-4 * theirs.abs().max().item() + 1e-5
        golden.assert_close(f"gradient of {name}", parameters[name].grad, theirs, tolerance)
    worst = 0.0
    assert set(norms) == {name for name, p in parameters.items() if p.requires_grad}
    for name, theirs in norms.items():
        grad = parameters[name].grad
        if theirs is None:
            assert grad is None or not grad.any(), name
            continue
        error = abs(grad.norm().item() - theirs)
        worst = max(worst, error / theirs if theirs > 1e-5 else 0.0)
        assert error <= 2e-3 * theirs + 1e-5, f"{name}: {grad.norm().item()} != {theirs}"
    print(f"gradient norms: largest relative error {worst:.1e}")  # noqa: T201


@pytest.fixture(scope="module")
def maps(model):
    return model.visual_tokenizer(golden.images()).maps


def previous(maps, index):
    """The maps of a preceding image each, zeros where there is none (-1)."""
    there = (index >= 0)[:, None, None, None, None]
    return [x[index.clamp(min=0)][:, None] * there for x in maps]


def test_the_image_loss_matches_the_official_one(model, maps):
    full, recorded = golden.tensors("full_model"), golden.tensors("train_forward")
    decoder, noise = model.image_decoder, training_noise(recorded, len(golden.images()))
    latents = decoder.decoder.encode(golden.decoder_images(), noise.posterior_NCHW)
    golden.assert_recorded("vae_latents_scaled", latents, recorded, 1e-4)
    mask = recorded["image_loss_mask_variant/mask"]

    def error_of(rows):
        context_mask = full["out/context_attention_mask_train"][rows]
        return denoising_error(
            decoder,
            latents[rows],
            decoder.image_tokens(full["out/context_features_train"][rows], context_mask),
            [x[rows] for x in previous(maps, full["out/imgdec_prev_image_train"])],
            full["out/imgdec_mmfs_mask_train"][rows],
            TrainingNoise(*(x[rows] for x in vars(noise).values())),
        )

    every = error_of(torch.arange(len(mask)))
    first = (~full["out/imgdec_mmfs_mask_train"][:, 0]).nonzero()[:1, 0]
    torch.testing.assert_close(error_of(first), every[first], atol=1e-5, rtol=1e-4)
    for name, loss_mask in (("loss_img", None), ("image_loss_mask_variant/loss_img", mask)):
        # The masked variant only drops terms of a mean that the first pass has computed wholly.
        rows = torch.arange(len(mask)) if loss_mask is None else loss_mask.nonzero()[:, 0]
        context_mask = full["out/context_attention_mask_train"][rows]
        error = every if loss_mask is None else error_of(rows)
        loss = image_loss(error, context_mask)
        golden.assert_close(name, loss * len(rows) / len(mask), recorded[name], 1e-4)
