"""From the body of a request to an enqueued task."""
