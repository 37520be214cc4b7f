"""What was found: studies, candidates, trials, block scores. Knows neither Optuna nor models."""
