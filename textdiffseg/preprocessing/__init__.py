"""From a scan to the grid of the plan, and back to the scan's own grid."""
