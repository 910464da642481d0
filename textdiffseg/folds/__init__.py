"""Trained folds: their weights, phrasings, sampling and calibration, and the ensemble of a model's folds."""
