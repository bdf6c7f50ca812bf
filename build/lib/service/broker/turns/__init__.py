"""Turns: enqueue, claim, ack, nack, reclaim, dead-letter."""
