"""The storybook world: 3D pictures of things and heroes at photographed places."""
