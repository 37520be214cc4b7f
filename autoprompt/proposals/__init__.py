"""Proposals: templates and label words taken from a masked LM and a few labelled texts."""
