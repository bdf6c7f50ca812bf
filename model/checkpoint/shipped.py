"""The checkpoint that comes with the repository: what is served, evaluated and measured."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "checkpoints" / "storybook"
