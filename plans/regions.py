"""Overlapping labels (nnU-Net's regions): each label is a set of values in label files.

The *value number* of a value is its place 1..E in ascending order. Stored label maps hold value numbers, so a label
is also a set of value numbers.
"""

from collections.abc import Iterable, Mapping, Sequence

Regions = tuple[tuple[int, ...], ...]
"""Per label, in label order, its values in label files, or their value numbers."""


def values_of(regions: Iterable[Iterable[int]]) -> tuple[int, ...]:
    """All values that belong to a region, in ascending order. A value's number is its place here, from 1."""
    return tuple(sorted({value for region in regions for value in region}))


def numbered(regions: Sequence[Sequence[int]]) -> Regions:
    """The regions as value numbers instead of values."""
    number_of = {value: number for number, value in enumerate(values_of(regions), start=1)}
    return tuple(tuple(sorted(number_of[value] for value in region)) for region in regions)


def faults_of_order(regions: Mapping[str, Sequence[int]], order: Sequence[int]) -> list[str]:
    """One line per region that a written prediction could not represent; [] if there are none.

    A mask must give the same regions when it is read again. Label i writes the value order[i]; later labels overwrite
    earlier ones.

    Args:
        regions: the values of each label, by name.
        order: the value that each label writes.
    """
    names = list(regions)
    holders = {value: [name for name in names if value in regions[name]] for value in values_of(regions.values())}
    own_values = {name: [value for value in regions[name] if holders[value][-1] == name] for name in names}
    if covered := [_never_written(name, regions) for name in names if not own_values[name]]:
        return covered
    faults = []
    for name, written in zip(names, order, strict=True):
        inside = [{*holders[value]} for value in own_values[name]]
        others = sorted(inside[0].union(*inside) - inside[0].intersection(*inside))
        if others:
            both = _in_words(value for value in own_values[name] if {*holders[value]} & {*others})
            faults.append(
                f"{name} shares {both} with {', '.join(others)}, and neither holds the other: one value a voxel cannot "
                f"write both. Add a label of {both} alone after them, which writes that value."
            )
        elif written not in own_values[name]:
            choices = _in_words(own_values[name], "or")
            faults.append(f"{name} writes {written}, which is not a value of its own. Give it {choices}.")
    return faults


def _never_written(name: str, regions: Mapping[str, Sequence[int]]) -> str:
    """The line for a label that later labels overwrite completely."""
    names = list(regions)
    later = [other for other in names[names.index(name) + 1 :] if {*regions[other]} & {*regions[name]}]
    larger = [other for other in later if {*regions[name]} < {*regions[other]}]
    advice = f"Put it after {larger[-1]}, here and in labels." if larger else "Leave it out."
    return f"{name} would never be written: later labels ({', '.join(larger or later)}) cover it. {advice}"


def _in_words(values: Iterable[int], joined: str = "and") -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} {joined} {last}" if first else last
