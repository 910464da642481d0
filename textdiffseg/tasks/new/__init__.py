"""A raw data set from scans and masks, as `tds_new` makes it."""

from textdiffseg.tasks.new.dataset import NewDataset, new_dataset

__all__ = ["NewDataset", "new_dataset"]
