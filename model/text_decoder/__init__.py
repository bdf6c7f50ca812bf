"""Llama with synchronizer layers."""
