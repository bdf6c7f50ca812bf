"""The official inference loop, without a server."""
