"""Prediction: windows, sampling, ensembles, uncertainty, files. Imports nothing from `training`."""
