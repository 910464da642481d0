"""Scans as arrays: reading, writing, orientation, resampling, normalisation."""
