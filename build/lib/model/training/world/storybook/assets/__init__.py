"""What the storybook world is made of: two npm packages, unpacked once."""
