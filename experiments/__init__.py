"""Experiments: one folder for each question, with its README, its configuration and its run."""
