"""The search: where spaces, learners and storage meet. Everything that knows Optuna lives here."""
