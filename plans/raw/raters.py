"""Several reference masks of one case, one per rater: `CASE.rater1.nii.gz`, `CASE.rater2.nii.gz`, ...

A plain `CASE.nii.gz` beside them is one more reference. No file is opened here.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from plans.errors import merged
from plans.file_names import rater_of

_ALMOST = re.compile(r"(.+?)[._ -]*rater[._ -]*\w*", re.IGNORECASE)  # names that probably mean a rater


def group_references(
    folder: Path, files: Mapping[str, str], own: Collection[str], faults: list[str]
) -> dict[str, tuple[str, ...]]:
    """The names of the references of each case: the plain one first, then by the number of the rater.

    Args:
        folder: of the references.
        files: name without ending -> name.
        own: names without endings that are cases of their own, although they look like a rater's file.
        faults: receives a line for two files of one rater.
    """
    found: dict[str, dict[int, str]] = {}
    for stem, name in files.items():
        case, number = rater_of(stem)
        if number is None or stem in own:
            case, number = stem, -1  # the plain reference comes first
        if (other := found.setdefault(case, {}).setdefault(number, name)) != name:
            faults.append(f"{folder}: {other} and {name} are files of one rater. Remove or rename one of them.")
    return {case: tuple(numbers[number] for number in sorted(numbers)) for case, numbers in found.items()}


def almost_rater(stem: str, cases: Collection[str]) -> str | None:
    """The case whose rater a misspelled file name probably means, e.g. `CASE_rater1`; None if there is none."""
    match = _ALMOST.fullmatch(stem)
    return match[1] if match and match[1] in cases else None


def rater_notes(folder: Path, references: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes on cases with several references, by the stems of their files; [] if every case has one plain reference.

    Args:
        folder: of the references.
        references: case -> names without endings.
    """
    counts = [len(stems) for stems in references.values()]
    if max(counts, default=1) == 1:
        return []
    several = sum(count > 1 for count in counts)
    notes = [
        f"{folder}: cases with several references: {several} of {len(counts)}, with at most {max(counts)} each. "
        "Training draws one per sample. Scores are means over them."
    ]
    if plain := sum(case in stems for case, stems in references.items() if len(stems) > 1):
        notes.append(
            f"{folder}: cases with a plain reference beside those of raters: {plain}. It counts as one more "
            "rater. If it was made from theirs, move it away."
        )
    gaps = []
    for case, stems in references.items():
        numbers = sorted(number for stem in stems if stem != case and (number := rater_of(stem)[1]) is not None)
        if numbers and (numbers[0] > 1 or numbers[-1] - numbers[0] >= len(numbers)):
            listing = ", ".join(f"rater{number}" for number in numbers)
            gaps.append((case, f"{folder}: case {case} has {listing}, so a number is missing. Check its files."))
    return [*notes, *merged(gaps)]
