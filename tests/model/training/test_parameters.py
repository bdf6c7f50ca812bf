import torch

from model.mm_interleaved import MMInterleaved
from model.training.parameters import freeze_pretrained
from tests.model import golden


def test_the_published_training_froze_the_same_parameters():
    with torch.device("meta"):
        model = MMInterleaved(golden.config())
    freeze_pretrained(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(golden.document()["trainable_parameters"])
