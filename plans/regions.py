"""Overlapping labels (nnU-Net's regions): each label is a set of values in label files.

The *value number* of a value is its place 1..E in ascending order. Stored label maps hold value numbers, so a label
is also a set of value numbers.
"""

from collections.abc import Iterable, Sequence

Regions = tuple[tuple[int, ...], ...]
"""For each label, in label order, the values in label files that belong to it, or their value numbers."""


def values_of(regions: Iterable[Iterable[int]]) -> tuple[int, ...]:
    """All values that belong to a region, in ascending order. A value's number is its place here, from 1."""
    return tuple(sorted({value for region in regions for value in region}))


def numbered(regions: Sequence[Sequence[int]]) -> Regions:
    """Convert regions of values to regions of value numbers."""
    number = {value: place for place, value in enumerate(values_of(regions), start=1)}
    return tuple(tuple(sorted(number[value] for value in region)) for region in regions)
