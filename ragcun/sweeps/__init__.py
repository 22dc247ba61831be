"""Hyperparameter sweeps: a YAML file of settings to try, an Optuna study of training runs, and its report."""
