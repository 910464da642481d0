"""The raw data set: its files, its header, its labels and their words."""
