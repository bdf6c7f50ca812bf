"""Training, evaluation, offline and served generation make the same ids of the same content."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import pytest
from PIL import Image

from model.checkpoint import seeded
from model.config.presets import preset
from model.engine.text.prompt import PromptBuilder
from model.offline.story import Story
from model.processor import Processor
from model.segments import ImageSegment, RoleSegment, Segment, TextSegment, TokenSegment
from model.training.data.batches import tokenise
from model.training.world.example import Example
from service.commands.evaluate import _part
from tests.model.chat_template import TEMPLATE
from tests.service.gateway.conftest import Client

CONFIG = preset("tiny")


@dataclass(frozen=True)
class Square:
    """A drawable of one colour."""

    colour: str

    def render(self, size: int = 96) -> Image.Image:
        return Image.new("RGB", (size, size), self.colour)


FIRST = (Square("red"), "What is this?")
EARLIER = ((FIRST, ("A red square. ", Square("blue"), "And a blue one.")),)
EXAMPLES = (
    Example("t", ("Hello! </s> {{ bos_token }}",), ("Hi.",)),
    Example("t", (*FIRST, "Say it."), ("Red.",)),
    Example("t", ("And now?",), ("Both.",), earlier=EARLIER),
)


@pytest.fixture(scope="module", params=[None, TEMPLATE], ids=["plain", "template"])
def processor(request: pytest.FixtureRequest) -> Processor:
    tokenizer = seeded.build_tokenizer(CONFIG)
    tokenizer.chat_template = request.param
    return Processor(CONFIG, tokenizer)


async def engine_ids(context: tuple[Segment, ...], processor: Processor) -> tuple[int, ...]:
    """The prompt that the text engine gives to vLLM."""
    return (await PromptBuilder(CONFIG, processor, 1024).build(context, False, ())).token_ids


def as_messages(example: Example) -> list[dict[str, object]]:
    """The messages that an OpenAI client sends."""
    messages = []
    for asked, answered in example.earlier:
        messages += [("user", asked), ("assistant", answered)]
    return [
        {"role": role, "content": [as_chat_part(part) for part in parts]}
        for role, parts in (*messages, ("user", example.prompt))
    ]


def as_chat_part(part: object) -> dict[str, object]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    assert isinstance(part, Square)
    buffer = io.BytesIO()
    part.render().save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_all_paths_make_the_same_prompt(
    client: Client, processor: Processor, number: int
) -> None:
    example = EXAMPLES[number]
    learned = tokenise(example, processor)
    trained = learned.ids[: learned.prompt_length]
    segments = [
        part
        if isinstance(part, RoleSegment)
        else TextSegment(part)
        if isinstance(part, str)
        else ImageSegment(part.render(), "")
        for part in example.given
    ]
    assert Story.from_context(segments, processor).input_ids == trained

    document = {"messages": as_messages(example)}
    assert (await client.post(document, "/v1/chat/completions")).status_code == 200
    native = {"content": [_part(part) for part in example.given], "output_modalities": ["text"]}
    assert (await client.post(native)).status_code == 200
    chat, generate = client.workers.text.contexts
    assert await engine_ids(chat, processor) == trained
    assert await engine_ids(generate, processor) == trained

    reply = processor.encode_text(str(example.answer[0]))
    later = await engine_ids((*chat, TokenSegment(tuple(reply))), processor)
    assert learned.ids == (*later, processor.special.eos_token_id)


async def test_later_turns_of_an_answer_go_on_where_training_does(
    client: Client, processor: Processor
) -> None:
    assert (await client.post({"content": [{"type": "text", "text": "Draw."}]})).status_code == 200
    _, context = client.workers.text.contexts
    wanted = tokenise(Example("t", ("Draw.",), ("x", Square("red"))), processor)
    said = processor.encode_text("x")
    ids = await engine_ids(context, processor)
    start = wanted.prompt_length
    assert ids == (*wanted.ids[:start], 10, 11, *wanted.ids[start + len(said) : -1])


def test_further_questions_are_further_messages(processor: Processor) -> None:
    if processor.chat_template is None:
        return
    example = Example("t", FIRST, ("Red.",), further=(("Sure?", "Yes."), ("Why?", "See.")))
    sequence = tokenise(example, processor)
    asked: list[Segment] = [ImageSegment(Image.new("RGB", (1, 1)), ""), TextSegment(str(FIRST[1]))]
    asked += [RoleSegment("assistant"), TextSegment("Red."), RoleSegment("user")]
    asked += [TextSegment("Sure?"), RoleSegment("assistant"), TextSegment("Yes.")]
    asked += [RoleSegment("user"), TextSegment("Why?")]
    prompt = processor.encode(asked).input_ids
    end = processor.special.eos_token_id
    assert sequence.ids == (*prompt, *processor.encode_text("See."), end)
    assert sequence.questions[-1].stop == len(prompt)
    assert sequence.ids[sequence.questions[0].start - 1] == end


async def test_content_of_roles_alone_is_refused(client: Client) -> None:
    answer = await client.post({"content": [{"type": "role", "role": "user"}]})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "content: must hold text or an image."
    unknown = await client.post({"content": [{"type": "role", "role": "tool"}]})
    assert unknown.json()["error"]["param"] == "content[0].role"
