"""Beam search: bookkeeping of open and finished texts, apart from any model.

Legend: N prompts, W beams of a prompt, B = N * W open texts, L tokens, V vocabulary, Q candidates.

A step looks at W * (1 + number of stop ids) candidates of a prompt, so that stops, which leave the
beam, never leave it short. A stop among the W best finishes a text; later ones are dropped. The
stop itself is not stored, and `finish` writes the first stop id wherever there is room.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Finished:
    """The best finished texts of one prompt, and whether better ones can still come."""

    width: int
    length_penalty: float
    texts: list[tuple[float, Tensor]] = field(default_factory=list)
    done: bool = False

    def add(self, ids_L: Tensor, log_probability: float) -> None:
        """Keep a text if it is among the best."""
        score = self._score(log_probability, len(ids_L))
        if len(self.texts) < self.width:
            self.texts.append((score, ids_L))
        elif score > self._worst():
            scores = [kept for kept, _ in self.texts]
            del self.texts[scores.index(min(scores))]
            self.texts.append((score, ids_L))

    def close(self, best_log_probability: float, length: int) -> None:
        """Note whether no open text can beat the finished ones any more."""
        attainable = self._score(best_log_probability, length)
        self.done = len(self.texts) >= self.width and self._worst() >= attainable

    def best(self) -> Tensor:
        """The best text; of equals the last one found."""
        return sorted(self.texts, key=lambda text: text[0])[-1][1]

    def _score(self, log_probability: float, length: int) -> float:
        return float(log_probability / length**self.length_penalty)

    def _worst(self) -> float:
        return min(score for score, _ in self.texts)


class BeamSearch:
    """State of a search over the beams of several prompts."""

    def __init__(
        self, num: int, width: int, length_penalty: float, stops: Tensor, pad_token_id: int
    ) -> None:
        self.num, self.width = num, width
        self.stops, self.pad_token_id = stops, pad_token_id
        self.finished = [Finished(width, length_penalty) for _ in range(num)]
        # All beams of a prompt are alike at first: only one of them may be extended.
        self.scores_NW = torch.full((num, width), -1e9, device=stops.device)
        self.scores_NW[:, 0] = 0.0

    @property
    def done(self) -> bool:
        """Whether every prompt has its texts."""
        return all(finished.done for finished in self.finished)

    def advance(self, scores_BV: Tensor, output_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the next tokens.

        Args:
            scores_BV: log-probabilities of the next tokens.
            output_BL: the open texts.

        Returns:
            Which open text each new one extends, and by which token: [B] both.
        """
        vocabulary = scores_BV.shape[1]
        total_NV = (scores_BV + self.scores_NW.view(-1, 1)).view(self.num, -1)
        scores_NQ, flat_NQ = total_NV.topk(self.width * (1 + len(self.stops)))
        rows, ids = [], []
        for n, finished in enumerate(self.finished):
            if finished.done:
                kept = [(n * self.width, self.pad_token_id, 0.0)] * self.width
            else:
                beams_Q = n * self.width + flat_NQ[n] // vocabulary
                candidates = zip(
                    beams_Q.tolist(),
                    (flat_NQ[n] % vocabulary).tolist(),
                    scores_NQ[n].tolist(),
                    strict=True,
                )
                kept = self._sort(finished, list(candidates), output_BL)
                finished.close(scores_NQ[n, 0].item(), output_BL.shape[1] + 1)
            self.scores_NW[n] = torch.tensor([score for _, _, score in kept])
            rows += [row for row, _, _ in kept]
            ids += [token for _, token, _ in kept]
        return torch.tensor(rows, device=flat_NQ.device), torch.tensor(ids, device=flat_NQ.device)

    def _sort(
        self, finished: Finished, candidates: list[tuple[int, int, float]], output_BL: Tensor
    ) -> list[tuple[int, int, float]]:
        """Finish texts that stop, until the beam is full of texts that go on."""
        kept: list[tuple[int, int, float]] = []
        stops = set(self.stops.tolist())
        for rank, (row, token, score) in enumerate(candidates):
            if len(kept) == self.width:
                break
            if token not in stops:
                kept.append((row, token, score))
            elif rank < self.width:
                finished.add(output_BL[row], score)
        return kept

    def finish(self, output_BL: Tensor, max_length: int) -> Tensor:
        """The best text of every prompt, padded behind: [N, L]."""
        for n, finished in enumerate(self.finished):
            if not finished.done:
                for w in range(self.width):
                    finished.add(output_BL[n * self.width + w], self.scores_NW[n, w].item())
        best = [finished.best() for finished in self.finished]
        longest = min(max(map(len, best)) + 1, max_length)
        out_NL = output_BL.new_full((self.num, longest), self.pad_token_id)
        for row_L, ids_L in zip(out_NL, best, strict=True):
            row_L[: len(ids_L)] = ids_L
            if len(ids_L) < longest:
                row_L[len(ids_L)] = self.stops[0]
        return out_NL
