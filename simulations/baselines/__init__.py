"""Baselines without privacy, fitted on all data at once: what a federation is held against."""
