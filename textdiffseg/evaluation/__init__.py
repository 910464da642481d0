"""How good a segmentation is: metrics of one case, and reports over many."""
