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
        "ms0_64x64_stride4": features.maps[0][:, :, ::4, ::4],
        "ms1_32x32_stride2": features.maps[1][:, :, ::2, ::2],
        "ms2_16x16": features.maps[2],
        "ms3_8x8": features.maps[3],
        "ms_channel_mean": torch.stack([m.mean((2, 3)) for m in features.maps]),
        "ms_channel_std": torch.stack([m.flatten(2).std(2) for m in features.maps]),
        "encoder_last_hidden_state_image0": encoded[:1],
    }
    theirs = golden.part(recorded, "out/")
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        golden.assert_close(name, tensor, theirs[name], 2e-4)
