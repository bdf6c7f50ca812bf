"""What people who ask for an image say: wider words than those of captions and stories.

Some of what they say changes nothing: names, adjectives that no picture here shows, what an animal
is doing. Most names that they have for a place are not those that this world gives it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from model.training.world.storybook.language.grammar import looks, phrases
from model.training.world.storybook.language.grammar.forms import fill
from model.training.world.storybook.painting.hero import NAMES, SPECIES
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import StorybookScene
from model.training.world.storybook.telling.group import Group, items
from model.training.world.words import NUMBERS, joined

_SYNONYMS = 0.35
_WIDER = 0.4  # Of places, times and weathers.
_ADORNED = 0.25  # Of single things.
_IN_DIGITS = 0.2  # Of numbers.
_LINKED = 0.3  # Of the first two of a list.

_PLACES: dict[str, str] = {
    "living room": (
        "in the [kitchen|bedroom|house|children's room|dining room]|indoors|in my room|"
        "inside a house|by the window at home|in a [cosy|modern] [room|apartment|flat]|"
        "on the kitchen floor"
    ),
    "bridge": "on [the|a] bridge|in a glass tunnel|on a footbridge|in a [modern|bright] walkway",
    "city": (
        "in [town|the street|New York|the middle of the city]|on the [street|road]|"
        "[between|in front of] [skyscrapers|office buildings]|at a crossroads|"
        "in a [busy|modern] street"
    ),
    "desert": (
        "in the [mountains|hills|canyon|Sahara|wilderness]|on a [mountain|hill|rock|cliff]|"
        "between the rocks|in the dunes|on stony ground"
    ),
    "mall": (
        "in [a|the] [shop|store|supermarket|department store]|at the [airport|station]|"
        "while shopping"
    ),
    "forest": (
        "in [the|a] [jungle|wood|dark forest|green forest|fairy-tale forest]|under the trees|"
        "deep in the [woods|forest]|on a forest path|between the trees"
    ),
    "ballroom": (
        "in [a|the] [palace|theatre|concert hall|church|museum|throne room]|inside the castle|"
        "at a ball|in a [fancy|magnificent] hall"
    ),
    "laboratory": (
        "in [a|the] [science lab|classroom|research lab|chemistry room]|at school|"
        "with the scientists|in an inventor's room"
    ),
    "lobby": (
        "in [a|the] [hotel|foyer|office|waiting room|restaurant|hall of a hotel]|at the reception"
    ),
    "savanna": (
        "in [Africa|the steppe|the outback|the prairie|the wild]|on [safari|the plains|the steppe]|"
        "on dry grass"
    ),
    "meadow": (
        "in [the|a] [garden|park|backyard|green park]|on the [lawn|playground|green]|outside|"
        "outdoors|under a blue sky|on a picnic"
    ),
    "field": (
        "on [a|the] farm|in a [wheat field|cornfield|vineyard]|out in the country|on farmland|"
        "near a village|in a wide field"
    ),
    "old town": (
        "in [a|the] village|in [Italy|Rome|Europe|an old city|a small town]|on a cobbled street|"
        "on the market|at the market|in an alley|in front of old houses|on the piazza"
    ),
    "harbour": (
        "[on|at] the [beach|shore|coast|pier|quay]|at the [sea|lake|ocean|port|docks|river]|"
        "by the [water|ocean|lake|river]|on an island|near the sea"
    ),
    "warehouse": (
        "in [a|the] [garage|barn|hangar|depot|cellar|basement|attic]|in an empty hall|"
        "in a big [empty|] shed"
    ),
    "workshop": (
        "in [a|the] [factory|studio|shed|tool shed|carpenter's shop]|[among|between] machines|"
        "where things are built"
    ),
}
_TIMES = {
    "morning": (
        "at dawn|at daybreak|in the early [morning|hours]|on a [fine|sunny|] morning|this morning|"
        "before breakfast|as the sun comes up"
    ),
    "day": (
        "in the [afternoon|daytime]|on a [sunny|bright|beautiful] day|in the sunshine|at midday|"
        "today"
    ),
    "evening": (
        "at [twilight|sundown|nightfall]|in the [sunset|golden hour|late evening]|"
        "on a warm evening|in the evening sun|as the sun goes down|this evening"
    ),
    "night": (
        "at midnight|in the [moonlight|middle of the night]|under the stars|"
        "on a [dark|quiet|] night|by moonlight|after dark|tonight"
    ),
}
_WEATHERS = {
    "rain": "in [pouring|heavy|] rain|in a [rainstorm|downpour|shower]|when it rains|as it rains",
    "snow": "in [winter|a snowstorm|falling snow]|on a winter day|when it snows|while snow falls",
    "fog": "in [the mist|a haze|dense fog]|when it is [foggy|misty]|hidden in fog",
}
_ADJECTIVES_OF_WEATHER = {
    "rain": ("rainy", "wet"),
    "snow": ("snowy", "winter"),
    "fog": ("foggy", "misty"),
}
_OF_ANY = (
    "beautiful", "lovely", "nice", "pretty", "funny", "old", "new", "wonderful", "magical",
    "simple", "famous", "colourful",
)  # fmt: skip
_OF_ANIMALS = (
    "cute",
    "friendly",
    "happy",
    "sleepy",
    "hungry",
    "brave",
    "fluffy",
    "brown",
    "black",
    "grey",
    "curious",
)
_OF_THINGS = ("red", "yellow", "green", "blue", "white", "black", "golden", "shiny", "wooden")
_DOING = (
    "sitting", "standing", "waiting", "resting", "sleeping", "playing", "dancing", "smiling",
    "looking around", "having fun", "on a roof", "on a branch", "on a bench", "on a blanket",
)  # fmt: skip
_LYING = ("on a table", "on the floor", "on the ground", "on a shelf", "in the middle of it all")
_LINK = (
    "[with|next to|beside|and also|together with|near|plus|, and next to it|in front of|behind|"
    "under|by|close to|on|looking at|holding|carrying|riding|playing with|playing|watching|chasing]"
)
# Words for things that captions do not use.
_THINGS = {
    "airplane": "jet|airliner", "backpack": "school bag", "bear": "bear cub|grizzly",
    "bird": "songbird|robin|sparrow", "boot": "rubber boot", "box": "cardboard box|package",
    "broom": "broomstick", "butterfly": "moth", "cake": "birthday cake|piece of cake",
    "candy": "bonbon", "canoe": "kayak|rowing boat", "cap": "baseball cap",
    "cat": "tomcat|kitty cat", "chair": "stool|seat", "clover": "shamrock|four-leaf clover",
    "couch": "settee", "cow": "bull|dairy cow", "crocodile": "croc", "crown": "tiara",
    "cucumber": "gherkin|pickle", "deer": "stag|reindeer", "diamond": "jewel",
    "dinosaur": "brontosaurus", "dog": "hound|poodle", "dolphin": "porpoise", "dress": "gown",
    "eagle": "hawk|falcon", "fire engine": "firetruck", "fish": "goldfish",
    "flying saucer": "alien spaceship", "frog": "toad", "glove": "mitten", "goat": "billy goat",
    "guitar": "electric guitar", "hamburger": "cheeseburger", "handbag": "purse",
    "hedgehog": "porcupine", "helicopter": "chopper", "honey pot": "jar of honey",
    "horse": "stallion|foal", "house": "cottage", "hut": "cabin|shack",
    "ice cream": "ice cream cone", "kite": "paper kite", "koala": "koala bear",
    "ladder": "stepladder", "lantern": "lamp|paper lantern", "leopard": "cheetah|jaguar",
    "light bulb": "lightbulb", "llama": "alpaca", "lobster": "crayfish",
    "magic wand": "wizard's wand", "maple leaf": "leaf|autumn leaf", "melon": "cantaloupe",
    "mirror": "looking glass", "monkey": "chimpanzee|ape", "moon": "half moon", "mouse": "rat",
    "mushroom": "fly agaric", "nesting doll": "russian doll|matryoshka", "octopus": "kraken",
    "orange": "tangerine", "owl": "barn owl", "panda": "panda bear", "parrot": "macaw",
    "pepper": "chili|red pepper", "pig": "hog", "pizza": "slice of pizza|pizza slice",
    "police car": "cop car", "potted plant": "plant|pot plant",
    "present": "gift box|wrapped gift", "puzzle piece": "jigsaw piece", "rabbit": "hare",
    "ring": "gold ring", "rocket": "space rocket", "saxophone": "sax", "school": "schoolhouse",
    "scooter": "kick scooter", "seal": "sea lion", "ship": "cruise ship|ocean liner|steamer",
    "snake": "python|cobra", "sneaker": "shoe|trainer", "soccer ball": "ball",
    "spider": "tarantula", "squirrel": "red squirrel", "statue": "stone head",
    "target": "dartboard|bullseye", "teapot": "kettle", "teddy bear": "stuffed bear|toy bear",
    "tent": "camping tent", "tree": "oak|oak tree", "train": "express train|railway train",
    "truck": "van|delivery truck", "turtle": "sea turtle", "umbrella": "parasol",
    "watermelon": "slice of watermelon", "whale": "blue whale", "wolf": "grey wolf",
    "yo-yo": "yoyo",
}  # fmt: skip


def where(setting: Setting, rng: random.Random) -> str:
    """The place as an adverbial, empty if it is not told."""
    if setting.place == phrases.UNTOLD or rng.random() >= _WIDER:
        return phrases.where(setting, rng)
    return fill(rng, f"[{_PLACES[setting.place]}]")


def when(setting: Setting, rng: random.Random) -> str:
    """Time and weather as adverbials; the day, which is meant where nothing is said, is rare."""
    if rng.random() >= _WIDER:
        return phrases.when(setting, rng)
    if setting.weather == "clear":
        is_said = setting.time != "day" or rng.random() < 0.5
        return fill(rng, f"[{_TIMES[setting.time]}]") if is_said else ""
    if rng.random() < 0.4:
        # One phrase for both, as in: on a foggy morning.
        adjective = rng.choice(_ADJECTIVES_OF_WEATHER[setting.weather])
        return f"on {phrases.article(adjective)} {setting.time}"
    weather = fill(rng, f"[{_WEATHERS[setting.weather]}]")
    if setting.time == "day" and rng.random() < 0.5:
        return weather
    return f"{fill(rng, f'[{_TIMES[setting.time]}]')} {weather}"


def subjects(scene: StorybookScene, rng: random.Random) -> list[str]:
    """Noun phrases of all that stands in the scene, from left to right."""
    return [
        thing(item, rng) if isinstance(item, Group) else looks.described(item.hero, rng)
        for item in items(scene)
    ]


def thing(group: Group, rng: random.Random) -> str:
    """A group with its article or number, and perhaps with words that change nothing."""
    further = _THINGS[group.noun].split("|") if group.noun in _THINGS else ()
    phrase = phrases.noun_phrase(group, rng, _SYNONYMS, further)
    if group.number == 1:
        return _adorned(group, phrase, rng) if rng.random() < _ADORNED else phrase
    if rng.random() >= _IN_DIGITS:
        return phrase
    numbers = [str(group.number)] + (["a pair of", "a couple of"] if group.number == 2 else [])
    return rng.choice(numbers) + phrase.removeprefix(NUMBERS[group.number])


def _adorned(group: Group, phrase: str, rng: random.Random) -> str:
    """A noun phrase with another determiner, an adjective, a name, or what an animal does."""
    is_animal = group.noun in SPECIES
    determiner, _, rest = phrase.partition(" ")
    kind = rng.randrange(5)
    if kind == 0 and NOUNS[group.noun].counted:
        return f"{rng.choice(('the', 'one', 'my', 'our', 'this'))} {rest}"
    if kind == 1 and is_animal:
        return f"{phrase} {rng.choice(('called', 'named'))} {rng.choice(NAMES)}"
    if kind == 2:
        return f"{phrase} {rng.choice(_DOING if is_animal else _LYING)}"
    adjective = rng.choice((*_OF_ANY, *(_OF_ANIMALS if is_animal else _OF_THINGS)))
    return (
        f"some {adjective} {rest}"
        if determiner == "some"
        else phrases.article(f"{adjective} {rest}")
    )


def listed(things: Sequence[str], rng: random.Random) -> str:
    """Noun phrases as one: with "and", the first two of them also with other words between."""
    if len(things) < 2 or rng.random() >= _LINKED:
        return joined(things)
    first, second, *others = things
    linked = fill(rng, f"{{first}} {_LINK} {{second}}", first=first, second=second)
    return joined([linked, *others])
