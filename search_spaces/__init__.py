"""What may be tried: dimensions, spaces, presets. Knows neither Optuna nor language models."""
