"""Learners: what is fitted to examples and then labels texts. Knows no search and no database."""
