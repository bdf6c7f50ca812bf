"""Scenes of the storybook world, from places, things and heroes."""
