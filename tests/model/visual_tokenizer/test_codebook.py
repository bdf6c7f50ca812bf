"""A codebook turns what is nearly one of its tokens into it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.schema import CodebookConfig, PerceiverConfig
from model.visual_tokenizer.codebook import AdditiveCodebook, sections
from model.visual_tokenizer.perceiver import PerceiverResampler

_WIDTH = 128
# Two sections share two books, the last has one of its own. Book 0 is required.
_BOOKS = CodebookConfig(sizes=(40, 5, 3), sections=((0, 1), (0, 1), (2, 0)), required=(0,))


@pytest.fixture
def codebook() -> AdditiveCodebook:
    torch.manual_seed(3)
    config = PerceiverConfig(10, _WIDTH, _WIDTH, 1, 1, 1)
    return AdditiveCodebook(_BOOKS, config)


def _token(codebook: AdditiveCodebook, token: int, section: int, chosen: list[int]) -> Tensor:
    """A token that holds some of the codebook's vectors, [D]."""
    vectors = [codebook.section_vectors[section], *codebook.vectors[chosen]]
    total = torch.stack(vectors).sum(0) / len(vectors) ** 0.5
    return F.layer_norm(total + codebook.token_vectors[token], (_WIDTH,))


def _tokens(codebook: AdditiveCodebook, *chosen: list[int]) -> Tensor:
    """The tokens of three sections, [T, D]: three, three and the other four."""
    sections = [0] * 3 + [1] * 3 + [2] * 4
    tokens = [_token(codebook, at, s, chosen[s]) for at, s in enumerate(sections)]
    return torch.stack(tokens)


def test_the_last_section_gets_the_rest() -> None:
    assert sections(11, 4) == [range(2), range(2, 4), range(4, 6), range(6, 11)]


def test_what_it_tells_stays_and_noise_goes(codebook: AdditiveCodebook) -> None:
    clean_NTD = torch.stack(
        [
            _tokens(codebook, [7, 42], [39], [12, 46]),
            _tokens(codebook, [0], [1, 40], [39]),
        ]
    )
    torch.testing.assert_close(codebook(clean_NTD), clean_NTD, atol=1e-5, rtol=0)
    noisy_NTD = clean_NTD + 0.4 * torch.randn_like(clean_NTD)
    torch.testing.assert_close(codebook(noisy_NTD), clean_NTD, atol=1e-5, rtol=0)
    for row in range(2):
        single_1TD = codebook(noisy_NTD[row : row + 1])
        torch.testing.assert_close(single_1TD[0], clean_NTD[row], atol=1e-5, rtol=0)


def test_of_two_vectors_of_one_book_the_stronger_stays(codebook: AdditiveCodebook) -> None:
    first_TD = _tokens(codebook, [7, 42], [39], [12, 46])
    second_TD = _tokens(codebook, [8, 42], [39], [12, 46])
    mixed_1TD = torch.lerp(first_TD, second_TD, 0.3)[None]
    torch.testing.assert_close(codebook(mixed_1TD)[0], first_TD, atol=1e-5, rtol=0)


def test_a_required_book_always_tells_something(codebook: AdditiveCodebook) -> None:
    without_1TD = _tokens(codebook, [42], [1], [2])[None]
    found_1TD = codebook(without_1TD)
    candidates = [_tokens(codebook, [index, 42], [1], [2])[0] for index in range(40)]
    distances = [(found_1TD[0, 0] - each).abs().max() for each in candidates]
    assert min(distances) < 1e-5


def test_books_of_one_alternative_are_told_together_and_of_no_other(
    codebook: AdditiveCodebook,
) -> None:
    # Vectors 40 to 44 are of book 1, 45 to 47 of book 2; the first section may hold both.
    sections = ((0, 1, 2), (0,), (0,))
    codebook.config = replace(_BOOKS, sections=sections, alternatives=((), (1,), (2,)))
    first_TD = _tokens(codebook, [7, 42], [39], [12])
    second_TD = _tokens(codebook, [7, 46], [39], [12])
    mixed_2TD = torch.stack([torch.lerp(first_TD, second_TD, share) for share in (0.4, 0.6)])
    expected_2TD = torch.stack([first_TD, second_TD])
    torch.testing.assert_close(codebook(mixed_2TD), expected_2TD, atol=1e-5, rtol=0)
    # Half of two books that go together is completed, or left out.
    codebook.config = replace(codebook.config, alternatives=((), (1, 2)))
    both_TD, neither_TD = (_tokens(codebook, chosen, [39], [12]) for chosen in ([7, 42, 46], [7]))
    mixed_2TD = torch.stack(
        [torch.lerp(both_TD, first_TD, 0.3), torch.lerp(neither_TD, first_TD, 0.3)]
    )
    expected_2TD = torch.stack([both_TD, neither_TD])
    torch.testing.assert_close(codebook(mixed_2TD), expected_2TD, atol=1e-5, rtol=0)


def test_gradients_pass_straight_through(codebook: AdditiveCodebook) -> None:
    read_NTD = torch.randn(2, 10, _WIDTH, requires_grad=True)
    codebook(read_NTD).backward(torch.ones(2, 10, _WIDTH))
    assert read_NTD.grad is not None and torch.equal(read_NTD.grad, torch.ones_like(read_NTD))
    assert not any(parameter.requires_grad for parameter in codebook.parameters())


def test_a_perceiver_composes_what_its_codebook_tells() -> None:
    books = CodebookConfig(sizes=(9,), sections=((0,), (0,)), required=(0,))
    sizes = PerceiverConfig(10, 32, 48, 2, 2, 4, 64, codebook=books)
    perceiver = PerceiverResampler(sizes)
    assert perceiver.codebook is not None
    sequence_2LD = torch.randn(2, 5, sizes.encoder_hidden_size)
    read_2TD = perceiver.read(sequence_2LD)
    told_2TD = perceiver.codebook(read_2TD)
    assert not torch.allclose(read_2TD, told_2TD, atol=1e-2)
    torch.testing.assert_close(perceiver(sequence_2LD), perceiver.compose(told_2TD))
