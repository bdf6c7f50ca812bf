"""The checkpoints that come with the repository, and which of them is the default."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

_DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "checkpoints"
CHAT = _DIRECTORY / "smol"
TINY = _DIRECTORY / "tiny"


def default_checkpoint() -> Path:
    """What a whole system serves, and what is evaluated and measured.

    The chat model where the package of its language model is installed, else the one that needs no
    package. Neither need be there: whoever installs the packages alone has none.
    """
    if (CHAT / "base.json").is_file():
        module = json.loads((CHAT / "base.json").read_text())["module"]
        if importlib.util.find_spec(module) is not None:
            return CHAT
    return TINY
