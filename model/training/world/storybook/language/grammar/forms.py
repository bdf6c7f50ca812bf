"""Forms: templates with choices, filled at random; and the slips of people who type fast.

In a template `[a|b|c]` stands for one of its alternatives, which may hold choices themselves and
may be empty, and `{name}` for a value.
"""

from __future__ import annotations

import random
import re

_INNERMOST = re.compile(r"\[([^\[\]]*)\]")
_SPACES = re.compile(r"\s+")
_BEFORE_MARKS = re.compile(r"\s+([,.!?;:])")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou](?!ni))")
_SENTENCE = re.compile(r"([.?!] )([a-z])")
_WORD = re.compile(r"[A-Za-z]{4,}")
_NEIGHBOURS = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj",
    "i": "uo", "j": "hk", "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o",
    "q": "w", "r": "et", "s": "ad", "t": "ry", "u": "yi", "v": "cb", "w": "qe", "x": "zc",
    "y": "tu", "z": "x",
}  # fmt: skip


def fill(rng: random.Random, template: str, **values: str) -> str:
    """One text of a template: choices made, values filled in, spaces and articles put right."""
    while match := _INNERMOST.search(template):
        chosen = rng.choice(match[1].split("|"))
        template = template[: match.start()] + chosen + template[match.end() :]
    text = _SPACES.sub(" ", template.format(**values))
    text = _ARTICLE.sub(r"\1n ", _BEFORE_MARKS.sub(r"\1", text)).strip()
    return _SENTENCE.sub(lambda match: match[1] + match[2].upper(), text)


def capitalised(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def mistyped(rng: random.Random, text: str, number: int = 1) -> str:
    """The text with slips in `number` of its longer words, and perhaps without its capitals."""
    for _ in range(number):
        words = list(_WORD.finditer(text))
        if not words:
            break
        word = rng.choice(words)
        text = text[: word.start()] + _slip(rng, word[0]) + text[word.end() :]
    if rng.random() < 0.4:
        text = text.lower()
    if rng.random() < 0.4:
        text = text.rstrip(".!")
    return text


def _slip(rng: random.Random, word: str) -> str:
    """Two letters swapped, one doubled, one missing, or one of a neighbouring key."""
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at] + word[at:]
    if kind == 2:
        return word[:at] + word[at + 1 :]
    wrong = rng.choice(_NEIGHBOURS[word[at].lower()])
    return word[:at] + wrong + word[at + 1 :]
