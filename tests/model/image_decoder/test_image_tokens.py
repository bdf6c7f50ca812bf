"""The first stage, as a text worker holds it, gives the recorded image tokens."""

from __future__ import annotations

from model.image_decoder.image_tokens import ImageTokenizer
from tests.model import golden


def test_image_tokens() -> None:
    full = golden.tensors("full_model")
    tokenizer = ImageTokenizer(golden.config().image_decoder.perceiver).eval()
    prefix = "image_decoder.perceiver_resampler."
    tokenizer.perceiver_resampler.load_state_dict(golden.part(golden.state_dict(), prefix))
    for use in ("train", "gen"):
        tokens = tokenizer.image_tokens(
            full[f"out/context_features_{use}"], full[f"out/context_attention_mask_{use}"]
        )
        golden.assert_close(f"tokens {use}", tokens, full[f"out/conditioning_{use}"], 1e-4)
