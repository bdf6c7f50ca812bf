import pytest
import torch

from model.visual_tokenizer.visual_tokenizer import VisualTokenizer
from tests.model import golden


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = VisualTokenizer(golden.config())
    tokenizer.load_state_dict(golden.part(golden.state_dict(), "visual_tokenizer."))
    return tokenizer.eval().requires_grad_(False)


def test_matches_the_official_numbers(tokenizer):
    recorded = golden.tensors("visual_tokenizer")
    pixels = golden.images()[recorded["in/image_index"]]
    features = tokenizer(pixels)
    encoded, _ = tokenizer.encoder((pixels - tokenizer.clip_mean) / tokenizer.clip_std)
    ours = {
        "vis_embed": features.tokens_NTD,
        "image_embeds": features.image_embeds_NVC,
        **{f"ms{level}": features_NCHW for level, features_NCHW in enumerate(features.maps)},
        "ms_channel_mean": torch.stack([m.mean((2, 3)) for m in features.maps]),
        "ms_channel_std": torch.stack([m.flatten(2).std(2) for m in features.maps]),
        "encoder_last_hidden_state_image0": encoded[:1],
    }
    theirs = golden.part(recorded, "out/")
    assert len(ours) == len(theirs)
    for name, tensor in ours.items():
        golden.assert_recorded(name, tensor, theirs, 2e-4)
