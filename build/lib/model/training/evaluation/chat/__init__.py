"""Whether a model that learned to draw still chats."""
