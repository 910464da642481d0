"""Writers of segmentations and maps."""
