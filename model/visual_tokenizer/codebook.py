"""Cleans up what a perceiver has read: the nearest sum of learned vectors.

Additive quantization (Babenko and Lempitsky, CVPR 2014). What is read of a context is a little of
this and a little of that; the layers after it were trained on clean sums and compose neither. The
tokens of a section hold the same sum, so their mean tells it.

Legend: N sequences, T tokens, D width, K vectors of all books, B books.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.schema import CodebookConfig, PerceiverConfig


class AdditiveCodebook(nn.Module):
    """Vectors of which a token holds at most one from each book of its section.

    A token is the sum of these and of its section's vector, divided by the root of their number,
    plus a vector of its own, normalised.
    """

    def __init__(self, config: CodebookConfig, perceiver: PerceiverConfig) -> None:
        super().__init__()
        self.config, width = config, perceiver.hidden_size
        self._sections = sections(perceiver.num_queries, len(config.sections))
        self.vectors = _table(sum(config.sizes), width)
        self.section_vectors = _table(len(config.sections), width)
        self.token_vectors = _table(perceiver.num_queries, width)

    def forward(self, read_NTD: Tensor) -> Tensor:
        """The nearest tokens that the codebook can tell, [N, T, D].

        Gradients pass as if nothing had changed (straight-through).
        """
        with torch.no_grad():
            nearest_NTD = torch.cat(
                [
                    self._nearest(read_NTD[:, tokens.start : tokens.stop].float(), index, tokens)
                    for index, tokens in enumerate(self._sections)
                ],
                1,
            ).to(read_NTD.dtype)
            change_NTD = nearest_NTD - read_NTD
        return read_NTD + change_NTD

    def _nearest(self, read_NTD: Tensor, section: int, tokens: range) -> Tensor:
        """The nearest tokens of one section, with whichever of the alternatives comes closest."""
        books, alternatives = self.config.sections[section], self.config.alternatives
        grouped = {book for alternative in alternatives for book in alternative}
        always = [book for book in books if book in self.config.required]
        free = [book for book in books if book not in grouped]
        own_TD = self.token_vectors[tokens.start : tokens.stop].float()
        mean_ND = (read_NTD * 2**0.5 - own_TD).mean(1)
        # A section without some of these books has fewer alternatives.
        possible = dict.fromkeys(tuple(b for b in each if b in books) for each in alternatives)
        found = [
            self._pursue(mean_ND, section, [*always, *each], [*free, *each]) for each in possible
        ]
        sums, errors = zip(*found, strict=True)
        best_N = torch.stack(errors).argmin(0)
        rows_N = torch.arange(len(best_N), device=best_N.device)
        sum_N1D = torch.stack(sums)[best_N, rows_N][:, None]
        return F.layer_norm(sum_N1D + own_TD, (own_TD.shape[1],))

    def _pursue(
        self, mean_ND: Tensor, section: int, required: Sequence[int], books: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The sum of some books' vectors nearest to a section's mean, by matching pursuit.

        Required books come first. Then that vector is added, time after time, which brings the sum
        closest, as long as one does.

        Returns:
            the sums, each divided by the root of its number of vectors, [N, D], and their squared
            distance, [N].
        """
        vectors_KD, book_K = self.vectors.float(), self._book_of_vectors()
        sum_ND = self.section_vectors[section].float().expand_as(mean_ND)
        number_N1 = torch.ones_like(mean_ND[:, :1])
        error_N = (mean_ND - sum_ND).square().sum(1)
        is_left_NB = torch.zeros(
            len(mean_ND), len(self.config.sizes), dtype=torch.bool, device=mean_ND.device
        )
        is_left_NB[:, list(books)] = True
        rows_N = torch.arange(len(mean_ND), device=mean_ND.device)
        for step in range(len(books)):
            candidates_NB = is_left_NB.clone()
            if step < len(required):
                candidates_NB[:, [book for book in books if book not in required]] = False
            scale_N1 = (number_N1 + 1).rsqrt()
            missing_ND = mean_ND / scale_N1 - sum_ND
            errors_NK = (torch.cdist(missing_ND, vectors_KD) * scale_N1).square()
            errors_NK = errors_NK.masked_fill(~candidates_NB[:, book_K], torch.inf)
            least_N, chosen_N = errors_NK.min(1)
            takes_N1 = (least_N < error_N)[:, None] | (step < len(required))
            sum_ND = torch.where(takes_N1, sum_ND + vectors_KD[chosen_N], sum_ND)
            number_N1 = number_N1 + takes_N1
            error_N = torch.where(takes_N1[:, 0], least_N, error_N)
            is_left_NB[rows_N, book_K[chosen_N]] &= ~takes_N1[:, 0]
        return sum_ND * number_N1.rsqrt(), error_N

    def _book_of_vectors(self) -> Tensor:
        """The book of each vector, [K]."""
        sizes = torch.tensor(self.config.sizes, device=self.vectors.device)
        return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)


def sections(number: int, num_sections: int) -> list[range]:
    """The tokens of each section, of equal number; the last section gets the rest as well."""
    size = number // num_sections
    starts = [index * size for index in range(num_sections)]
    return [range(start, stop) for start, stop in pairwise([*starts, number])]


def _table(number: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(number, width), requires_grad=False)
