"""Stored cases, folds, patches, augmentation, batches."""
