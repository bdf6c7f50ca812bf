from __future__ import annotations

import argparse

import pytest

from model.bench.image.command import ImageVariant, add_arguments


@pytest.mark.parametrize(
    ("name", "server", "steps", "scheduler"),
    [
        ("torch-compiled", "torch-compiled", 30, "ddpm"),
        ("onnxruntime@15:dpmsolver++", "onnxruntime", 15, "dpmsolver++"),
        ("torch@8", "torch", 8, "ddpm"),
    ],
)
def test_a_variant_may_have_its_own_steps(
    name: str, server: str, steps: int, scheduler: str
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    variant = ImageVariant.parse(name, parser.parse_args([]))
    assert variant == ImageVariant(name, server, steps, scheduler)
