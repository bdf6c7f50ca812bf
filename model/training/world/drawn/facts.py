"""The facts of the drawn world: what stands in each slot, and the background."""

from __future__ import annotations

from model.training.world.drawable import Drawable
from model.training.world.drawn.painting.background import PLACES, TIMES, WEATHERS
from model.training.world.drawn.painting.character import EARS, TEXTURES
from model.training.world.drawn.painting.objects import ALL_KINDS
from model.training.world.drawn.painting.palette import CHARACTER_COLOURS
from model.training.world.drawn.painting.scene import SIZES, SLOTS, Scene
from model.training.world.drawn.tasks import SceneImage
from model.training.world.facts import NOTHING, WHAT, Facts

_SLOT_FACTS: dict[str, tuple[str, ...]] = {
    WHAT: (NOTHING, "hero", *ALL_KINDS),
    "colour": tuple(CHARACTER_COLOURS),
    "size": tuple(SIZES),
    "texture": TEXTURES,
    "ears": EARS,
}
_VALUES: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "weather": WEATHERS,
    "time": TIMES,
    **{f"{slot} {name}": values for slot in SLOTS for name, values in _SLOT_FACTS.items()},
}


def scene_of(image: Drawable) -> Scene:
    """The scene of an image of the world.

    Raises:
        ValueError: the image does not come from this world.
    """
    if isinstance(image, SceneImage):
        return image.scene
    if not isinstance(image, Scene):
        raise ValueError("the content of an image is known only for images of the world")
    return image


def facts_of(image: Drawable) -> dict[str, str]:
    """The facts of an image; those that do not apply are left out."""
    scene = scene_of(image)
    background = scene.background
    facts = {"place": background.place, "weather": background.weather, "time": background.time}
    facts |= {f"{slot} {WHAT}": NOTHING for slot in SLOTS}
    for thing in scene.things:
        facts[f"{thing.slot} {WHAT}"] = thing.kind
        facts[f"{thing.slot} size"] = thing.size
        if thing.colour:
            facts[f"{thing.slot} colour"] = thing.colour
    if scene.hero is not None:
        slot = scene.hero_slot
        facts |= {f"{slot} {WHAT}": "hero", f"{slot} colour": scene.hero.colour}
        facts |= {f"{slot} texture": scene.hero.texture, f"{slot} ears": scene.hero.ears}
    return facts


def words_of(image: Drawable) -> list[list[str]]:
    """The facts of each slot, such as "left", "small", "red", "boat"; last the background's."""
    facts = facts_of(image)
    slots = [[slot, *_spoken(facts, slot)] for slot in SLOTS]
    return [*slots, [facts[name] for name in ("place", "weather", "time")]]


def _spoken(facts: dict[str, str], slot: str) -> list[str]:
    names = (f"{slot} {name}" for name in ("ears", "texture", "size", "colour", WHAT))
    return [facts[name] for name in names if name in facts]


def _place_of(fact: str) -> int:
    slot, _, _ = fact.rpartition(" ")
    return list(SLOTS).index(slot) if slot else len(SLOTS)


DRAWN_FACTS = Facts(
    values=_VALUES,
    places={name: _place_of(name) for name in _VALUES},
    num_places=len(SLOTS) + 1,
    of=facts_of,
    words_of=words_of,
)
