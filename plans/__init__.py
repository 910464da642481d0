"""Decisions about a data set: pure functions of its measurements. They need no torch and read no image."""
