"""Text: templates, truncation, tokens and label words. Knows no model and no learner."""
