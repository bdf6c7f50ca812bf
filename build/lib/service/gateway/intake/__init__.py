"""From the body of a request to the queue: body, validation, content, admission."""
