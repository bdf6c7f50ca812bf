"""The procedural picture-book world: scenes, words about them, and a reader of images."""
