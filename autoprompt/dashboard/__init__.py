"""optuna-dashboard on a study's database, with our notes. Never trains, never imports torch."""
