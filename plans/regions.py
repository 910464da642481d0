"""Overlapping labels (nnU-Net's regions): each label is a set of the values that label files hold.

Stored cases hold the place 1..E of each value in ascending order, the *numbers*; a label is a set of numbers.
"""

from collections.abc import Iterable, Sequence

Regions = tuple[tuple[int, ...], ...]
"""Of each label, in label order, the values in label files (or, where it says so, the numbers) that it is made of."""


def values_of(regions: Iterable[Iterable[int]]) -> tuple[int, ...]:
    """Every value that belongs to a region, ascending; the number of a value is its place here, from 1."""
    return tuple(sorted({value for region in regions for value in region}))


def numbered(regions: Sequence[Sequence[int]]) -> Regions:
    """Regions of values as regions of numbers."""
    number = {value: place for place, value in enumerate(values_of(regions), start=1)}
    return tuple(tuple(sorted(number[value] for value in region)) for region in regions)
