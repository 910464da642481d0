"""How a segmentation or a map is written."""
