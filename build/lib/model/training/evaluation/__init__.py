"""Evaluation: answers of a checkpoint, and their scores."""
