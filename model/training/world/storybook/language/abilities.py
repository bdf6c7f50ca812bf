"""Questions about what the model is and can do that ask for no image, and honest answers.

The untouched language model denies that it can draw.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from model.training.world.storybook.language.grammar.forms import capitalised, fill

_PICTURES = "[pictures|images|drawings|illustrations]"
# Forms of a question, and those of its answer.
_TALKS: Sequence[tuple[str, str]] = (
    (
        "[can|could|do] you [draw|paint|sketch][ well| things| too|]?|"
        f"[can you|are you able to|do you] [make|create|generate] {_PICTURES}?|"
        "are you [good at|able to] [drawing|painting]?|do you [like|know how] to [draw|paint]?",
        "yes! Tell me what to draw and where, for example: two owls in the forest at night.|"
        "yes, I can. What would you like to see, and where?",
    ),
    (
        f"what [can|could] you [draw|paint]?|what [kind|kinds|sort] of {_PICTURES} can you make?|"
        "what should I ask you to draw?|what could I ask for?",
        "animals, food, vehicles, toys and other things, at sixteen places from the forest to the "
        "harbour, by day and by night. Try: a red apple and a guitar in the living room.|"
        "I put things that I know at places that I know, for example three balloons over a meadow "
        "in the evening.",
    ),
    (
        "who are you?|what are you?|what is your name?|what can you do?|what can you do for me?|"
        "how can you help me?|could you introduce yourself?",
        "I am a small AI assistant that chats, draws pictures and tells stories with them.|"
        "I am a small AI assistant. I can chat, draw things at places that I know, answer "
        "questions about such pictures and tell stories with them.",
    ),
    (
        f"[can|do] you [see|understand|look at|read] {_PICTURES}?|"
        "can I [show|send] you [a picture|a photo|an image]?|can you describe [pictures|images]?",
        "yes. Show me a picture, and ask me what is in it.|"
        "yes, I can. Send one, and ask me about it.",
    ),
    (
        f"[can|do] you [tell|write] [stories|stories with {_PICTURES}|picture books]?|"
        "do you know any stories?",
        "yes! Tell me who the hero is and how many pictures you would like.|"
        "yes, with pictures. Who shall be the hero?",
    ),
    (
        f"are your {_PICTURES} real?|are these [photos|photographs]?|how do you draw?|"
        f"where do your {_PICTURES} come from?",
        "I compose them: things that I know, at places that I know. They are no photographs.",
    ),
)


def talk(rng: random.Random) -> tuple[str, str]:
    """A question and its answer."""
    question, answer = rng.choice(_TALKS)
    asked = fill(rng, f"[|||hi! |hello, |hey, |so, |tell me, ][{question}]")
    return capitalised(asked), capitalised(fill(rng, f"[{answer}]"))
