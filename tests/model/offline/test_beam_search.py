import itertools
import math

import torch

from model.offline.beam_search import BeamSearch, Finished

EOS, SOI, PAD, BOS = 0, 1, 2, 3
VOCABULARY = 6


def search(table, num, width, length_penalty, max_length):
    """Search where the next token's log-probabilities depend on the last token only."""
    beams = BeamSearch(num, width, length_penalty, torch.tensor([EOS, SOI]), PAD)
    output = torch.full((num * width, 1), BOS)
    for _ in range(max_length - 1):
        rows, ids = beams.advance(table[output[:, -1]], output)
        output = torch.cat((output[rows], ids[:, None]), 1)
        if beams.done:
            break
    return beams.finish(output, max_length)


def best_by_enumeration(table, max_length):
    """The best text of all, with the score that beams use; stops count but are not stored."""
    best, winner = -math.inf, None
    words = [t for t in range(VOCABULARY) if t not in (EOS, SOI)]
    for length in range(1, max_length + 1):
        for text in itertools.product(words, repeat=length - 1):
            text = (BOS, *text)
            total = sum(table[a, b].item() for a, b in itertools.pairwise(text))
            ends = (
                [total]
                if length == max_length
                else [total + table[text[-1], e].item() for e in (EOS, SOI)]
            )
            for score in ends:
                if score / length > best:
                    best, winner = score / length, list(text)
    return winner if len(winner) == max_length else [*winner, EOS]


def test_wide_beams_find_the_best_text():
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(VOCABULARY, VOCABULARY, generator=generator).log_softmax(-1)
        found = search(table, num=1, width=80, length_penalty=1.0, max_length=4)
        if VOCABULARY * 80 < 80 * 3:
            raise AssertionError
        assert found[0].tolist() == best_by_enumeration(table, 4)


def test_prompts_of_a_batch_do_not_meet():
    table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(9))
    table = table.log_softmax(-1)
    alone = search(table, num=1, width=2, length_penalty=1.0, max_length=5)
    assert (
        search(table, num=3, width=2, length_penalty=1.0, max_length=5).tolist()
        == [alone[0].tolist()] * 3
    )


def test_a_finished_text_ends_with_the_first_stop_and_padding():
    beams = BeamSearch(2, 2, 1.0, torch.tensor([EOS, SOI]), PAD)
    output = torch.full((4, 1), BOS)
    scores = torch.full((4, VOCABULARY), -5.0)
    scores[0, SOI], scores[0, 4], scores[0, 5] = -0.1, -1.0, -2.0
    scores[2, 4], scores[2, 5] = -0.5, -0.6
    rows, ids = beams.advance(scores, output)
    assert rows.tolist() == [0, 0, 2, 2]
    assert ids.tolist() == [4, 5, 4, 5]
    output = torch.cat((output[rows], ids[:, None]), 1)
    out = beams.finish(output, max_length=9)
    assert out.tolist() == [[BOS, EOS, PAD], [BOS, 4, EOS]]


def test_only_better_texts_replace_kept_ones():
    finished = Finished(width=2, length_penalty=0.0)
    for score, token in ((-3.0, 1), (-1.0, 2), (-3.0, 3), (-2.0, 4)):
        finished.add(torch.tensor([token]), score)
    assert sorted(ids.item() for _, ids in finished.texts) == [2, 4]
    assert finished.best().item() == 2
    finished.close(-1.5, 1)
    assert not finished.done
    finished.close(-2.5, 1)
    assert finished.done
