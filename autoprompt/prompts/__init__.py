"""Prompts that are learned: one method a file, found by its name."""
