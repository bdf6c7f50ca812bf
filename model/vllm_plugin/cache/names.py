"""Names of the cache-only layers.

vLLM wants exactly one integer in a layer's name, unlike that of any other layer: they are numbered
after the language model's layers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheNames:
    """Names of a model's three cache-only layers."""

    features: str
    classes: str
    hidden_states: str

    @classmethod
    def after(cls, num_hidden_layers: int) -> CacheNames:
        """The names in a model of so many layers."""
        first = num_hidden_layers
        return cls(
            f"image_features.{first}", f"token_class.{first + 1}", f"hidden_states.{first + 2}"
        )
