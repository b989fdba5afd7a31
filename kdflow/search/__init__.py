"""Search: Optuna over what a spec marks ``search:``, by any number of workers that share one storage."""
