"""Readers of scans: files of every format, folders of DICOM slices, and images of other libraries."""
