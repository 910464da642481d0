"""Validation: the choice of sampling, the scores of masks, and the calibration of probabilities.

This is the only room that imports both inference and evaluation.
"""
