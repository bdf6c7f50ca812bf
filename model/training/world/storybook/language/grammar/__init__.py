"""Forms and phrases that all texts of the storybook world are made of."""
