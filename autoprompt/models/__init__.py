"""Models: pretrained networks and what they read. Knows no task and no learner."""
