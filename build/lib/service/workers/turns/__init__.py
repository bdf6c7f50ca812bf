"""Turns as a worker holds them: claiming, heartbeat, outcome, answer."""
