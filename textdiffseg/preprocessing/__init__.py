"""Preprocessing: a scan to the plan's grid, and predictions back to the scan's own grid."""
