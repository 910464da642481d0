"""The outcome of a run over scans: written and failed cases, masks to check, and labels that no scan has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from textdiffseg.tasks.manifest import Manifest


@dataclass
class Outcome:
    """The result of a run, by case."""

    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # complete already
    failures: list[str] = field(default_factory=list)  # lines
    empty: list[str] = field(default_factory=list)  # the cases whose mask is empty
    not_found: tuple[str, ...] = ()  # queried labels that no mask contains
    notes: list[str] = field(default_factory=list)  # lines on single scans
    to_check: list[str] = field(default_factory=list)  # the cases whose expected Dice is low
    table: Path | None = None  # of the volumes of all cases in the folder; None: not written
    page: Path | None = None  # the report of `tds_predict --report`; None: not written


def empty_cases(manifests: Mapping[str, Manifest]) -> list[str]:
    """The cases whose mask is empty."""
    return [case for case, manifest in manifests.items() if not _labels_in_mask(manifest)]


def cases_to_check(manifests: Mapping[str, Manifest]) -> list[str]:
    """The cases whose expected Dice lies below the threshold of the calibration. Empty masks are not among them."""
    expected = {case: manifest.expected_dice for case, manifest in manifests.items() if _labels_in_mask(manifest)}
    return [case for case, dice in expected.items() if dice is not None and dice.needs_check]


def labels_not_found(manifests: Mapping[str, Manifest]) -> tuple[str, ...]:
    """The queried labels that no mask contains."""
    queried = dict.fromkeys(name for manifest in manifests.values() for name in manifest.labels)
    present = {name for manifest in manifests.values() for name in _labels_in_mask(manifest)}
    return tuple(name for name in queried if name not in present)


def _labels_in_mask(manifest: Manifest) -> list[str]:
    return [volume.label for volume in manifest.volumes if volume.volume_ml > 0]
