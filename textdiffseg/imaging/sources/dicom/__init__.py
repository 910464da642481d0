"""DICOM: which files belong to one scan, their place in space, and their values."""

from textdiffseg.imaging.sources.dicom.files import is_slice, is_zip_of_slices
from textdiffseg.imaging.sources.dicom.reading import (
    has_series,
    read_series,
    read_series_geometry,
    series_in,
    slice_files,
    slice_paths,
    source_slices,
)

__all__ = [
    "has_series",
    "is_slice",
    "is_zip_of_slices",
    "read_series",
    "read_series_geometry",
    "series_in",
    "slice_files",
    "slice_paths",
    "source_slices",
]
