"""Language of the storybook world: a wide grammar, families of which are held out from training."""
