"""Every setting looks different, and none is blown out or black."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.world.storybook.painting.places import (
    PLACES,
    Setting,
    all_settings,
    backdrop,
    precipitation,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("storybook_packages")]


def test_settings_are_exposed() -> None:
    for name in PLACES:
        day = backdrop(Setting(name, 0, "day"), 48)
        night = backdrop(Setting(name, 0, "night"), 48)
        assert 0.3 < day.mean() < 0.85, name
        assert 0.08 < night.mean() < day.mean() - 0.1, name


def test_weather_exists_outdoors_alone() -> None:
    for setting in all_settings():
        assert setting.weather == "clear" or not PLACES[setting.place].indoors


def test_rain_and_snow_fall_the_same_way_again() -> None:
    for weather in ("rain", "snow"):
        setting = Setting("forest", 1, "day", weather)
        first, second = precipitation(setting, 64), precipitation(setting, 64)
        assert first is not None and second is not None
        np.testing.assert_array_equal(first[1], second[1])
        assert 0.002 < first[1].mean() < 0.2
    assert precipitation(Setting("forest", 1, "day"), 64) is None
