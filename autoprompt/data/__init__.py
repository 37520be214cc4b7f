"""Labelled texts: read, checked, split and scored. Knows examples and labels, not tokens."""
