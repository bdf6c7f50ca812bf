from __future__ import annotations

import hypothesis
from hypothesis import strategies as st

from model.checkpoint import store
from model.checkpoint.shipped import SHIPPED
from model.engine.protocol import TextLimits
from model.engine.text.scores import TokenScores
from model.processor import Processor
from model.segments import TextSegment
from service.broker.model_card import ModelCards, publish
from service.broker.redis.connection import Broker
from service.messages import ModelCard, count_words
from service.workers.text.worker import card_of
from tests.service.workers.conftest import Stage, stage  # noqa: F401

TOKENIZER = store.load_tokenizer(SHIPPED)
PROCESSOR = Processor(store.load_config(SHIPPED), TOKENIZER)
CARD = card_of(TextLimits(1000, 8, 17, TokenScores(TOKENIZER.backend_tokenizer).vocabulary()))

PIECES = st.sampled_from(
    ["word ", "boat", "-----------", " 12", "\n\n", "</s>", "it's", "naïve", "猫", "🛶", ".", "a,b"]
)


def true_length(texts: list[str]) -> int:
    return len(PROCESSOR.encode(tuple(map(TextSegment, texts))).input_ids)


@hypothesis.settings(max_examples=300, deadline=None, database=None, derandomize=True)
@hypothesis.given(
    st.lists(
        st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=80), min_size=1, max_size=3
    )
)
def test_the_bound_is_never_above_the_true_length(texts: list[str]) -> None:
    assert CARD.least_tokens(texts, 0) <= true_length(texts)


def test_the_bound_of_plain_text_is_a_good_part_of_the_true_length() -> None:
    texts = ["The boat came home in the evening, and nobody asked where it had been. " * 20]
    assert CARD.words_per_token == 1
    assert CARD.least_tokens(texts, 0) > 0.4 * true_length(texts)
    assert CARD.least_tokens(texts, 3) == CARD.least_tokens(texts, 0) + 3 * 17


def test_words_are_runs_of_letters() -> None:
    assert count_words("It's 3 o'clock: naïve_cafés, 猫が, 2nd") == 8
    assert count_words("") == count_words(" 12.5 -- ") == 0


def test_an_unknown_vocabulary_bounds_nothing() -> None:
    card = card_of(TextLimits(1000, 8, 17))
    assert card.least_tokens(["many words " * 1000], 2) == 35


async def test_workers_publish_the_card_and_gateways_read_it(stage: Stage) -> None:  # noqa: F811
    assert await ModelCards(stage.broker).current() is None
    await stage.start("text")
    cards = ModelCards(stage.broker)
    card = await cards.current()
    assert card is not None and card.max_images == 1_000
    # Read again only after a while.
    await stage.broker.call("DEL", stage.broker.keys.card())
    assert await cards.current() == card


async def test_a_card_of_another_version_is_ignored(broker: Broker) -> None:
    await broker.call("SET", broker.keys.card(), '{"other": 1}')
    assert await ModelCards(broker).current() is None
    card = ModelCard(
        max_prompt_tokens=10, max_images=1, tokens_per_image=2,
        words_per_token=1, characters_per_token=9,
    )  # fmt: skip
    await publish(broker, card)
    assert await ModelCards(broker).current() == card
