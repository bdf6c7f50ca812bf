import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config.schema import SpecialTokens
from model.text_decoder import context

SPECIAL = SpecialTokens(
    bos_token_id=1, eos_token_id=2, pad_token_id=3, soi_token_id=4, image_token_id=5
)
NUM_IMG_TOKEN = 2


@st.composite
def sequences(draw):
    """Rows of documents with images, padded on the right: ids, images of each row, mask."""
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        row = []
        for _ in range(draw(st.integers(1, 3))):
            row.append(SPECIAL.bos_token_id)
            for is_image in draw(st.lists(st.booleans(), max_size=4)):
                row += (
                    [SPECIAL.soi_token_id, *[SPECIAL.image_token_id] * NUM_IMG_TOKEN]
                    if is_image
                    else [7]
                )
        rows.append(row)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [SPECIAL.pad_token_id] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, (ids == SPECIAL.soi_token_id).sum(1), mask


def starts(row):
    return [i for i, token in enumerate(row) if token == SPECIAL.soi_token_id]


def last_bos(row, column):
    return max((i for i in range(column + 1) if row[i] == SPECIAL.bos_token_id), default=-1)


@settings(max_examples=100, deadline=None)
@given(sequences())
def test_a_token_sees_the_images_before_it_in_its_document(case):
    ids, num_images, _ = case
    visible = context.visible_images(ids, num_images, SPECIAL)
    assert visible.shape == (*ids.shape, int(num_images.max()))
    for b, row in enumerate(ids.tolist()):
        for t in range(len(row)):
            seen = [k for k, soi in enumerate(starts(row)) if last_bos(row, t) < soi < t]
            assert visible[b, t].nonzero().flatten().tolist() == seen


@settings(max_examples=100, deadline=None)
@given(sequences(), st.booleans())
def test_contexts_run_backwards_from_the_image(case, documents_apart):
    ids, _, _ = case
    hidden = torch.randn(*ids.shape, 3)
    rows, columns = context.image_starts(ids, SPECIAL)
    first = context.nearest_bos(ids, SPECIAL)[rows, columns] if documents_apart else None
    features, mask = context.image_contexts(hidden, ids, SPECIAL, first)
    previous = context.previous_images(ids, SPECIAL, first)
    expected = [(b, c) for b, row in enumerate(ids.tolist()) for c in starts(row)]
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == expected
    for n, (b, column) in enumerate(expected):
        begin = last_bos(ids[b].tolist(), column) if documents_apart else 0
        source = hidden[b, begin : column + 1].flip(0)
        assert torch.equal(features[n, : len(source)], source)
        assert not features[n, len(source) :].any()
        assert mask[n].tolist() == [1] * len(source) + [0] * (mask.shape[1] - len(source))
        earlier = [m for m, (r, c) in enumerate(expected) if r == b and begin <= c < column]
        assert previous[n].item() == (earlier[-1] if earlier else -1)


@settings(max_examples=100, deadline=None)
@given(sequences(), st.data())
def test_images_of_an_answer_read_its_anchor(case, data):
    ids, num_images, _ = case
    given = [data.draw(st.integers(0, number)) for number in num_images.tolist()]
    anchored = context.previous_images(ids, SPECIAL, num_given_B=torch.tensor(given)).tolist()
    first = 0
    for number, num_given in zip(num_images.tolist(), given, strict=True):
        answer = range(num_given, number)
        # The user's images read as published, and so does an answer's first.
        read = [first + i - 1 if i else -1 for i in range(number)]
        for i in answer[1:]:
            read[i] = first + (num_given - 1 if num_given else 0)
        assert anchored[first : first + number] == read
        first += number


@settings(max_examples=50, deadline=None)
@given(sequences())
def test_images_go_to_their_sequences(case):
    _, num_images, _ = case
    items = torch.arange(1, int(num_images.sum()) + 1)
    grid = context.by_sequence(items, num_images)
    assert grid[grid > 0].tolist() == items.tolist()
    assert (grid > 0).sum(1).tolist() == num_images.tolist()


@settings(max_examples=100, deadline=None)
@given(sequences(), st.integers(0, 5), st.booleans())
def test_labels_follow_the_rules(case, prompt, only_after_image):
    ids, _, mask = case
    rules = context.LabelRules(prompt, only_after_image)
    labels = context.training_labels(ids, mask, SPECIAL, rules)
    never = (SPECIAL.pad_token_id, SPECIAL.image_token_id, SPECIAL.bos_token_id)
    for b, row in enumerate(ids.tolist()):
        for t in range(1, len(row)):
            learned = row[t] not in never and t >= prompt and bool(mask[b, t])
            learned &= not (row[t] == SPECIAL.soi_token_id and row[t - 1] == SPECIAL.bos_token_id)
            if only_after_image:
                soi = [c for c in starts(row) if c <= t]
                learned &= bool(soi) and soi[-1] >= last_bos(row, t)
            assert labels[b, t - 1].item() == (row[t] if learned else context.IGNORED)


def test_an_image_asked_for_is_not_yet_seen():
    ids = torch.tensor([[1, 4, 5, 5, 7, 4]])
    visible = context.visible_images(ids, torch.tensor([1]), SPECIAL)
    assert visible[0, :, 0].tolist() == [False, False, True, True, True, True]
    features, _ = context.image_contexts(torch.ones(1, 6, 2), ids, SPECIAL)
    assert features.shape == (2, 6, 2)


@pytest.mark.parametrize("ids", [[[1, 7, 7]], [[7, 7, 7]]])
def test_text_alone_has_no_images(ids):
    ids = torch.tensor(ids)
    assert context.visible_images(ids, torch.tensor([0]), SPECIAL).shape == (1, 3, 0)
    features, mask = context.image_contexts(torch.ones(1, 3, 2), ids, SPECIAL)
    assert features.shape == (0, 0, 2)
    assert mask.shape == (0, 0)
    assert context.by_sequence(torch.zeros(0, 4), torch.tensor([0])).shape == (1, 0, 4)
