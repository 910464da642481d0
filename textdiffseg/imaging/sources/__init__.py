"""How a scan is read: files of every format, folders of slices, and what other libraries hold in memory."""
