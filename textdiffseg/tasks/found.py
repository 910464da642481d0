"""What a run over scans found: which masks are empty, and which labels no scan has."""

from collections.abc import Iterable, Mapping

from textdiffseg.tasks.manifest import Manifest


def empty_cases(manifests: Mapping[str, Manifest]) -> list[str]:
    """The cases whose mask is empty."""
    return [case for case, manifest in manifests.items() if not _found(manifest)]


def labels_not_found(manifests: Mapping[str, Manifest]) -> tuple[str, ...]:
    """The labels that were queried and found in no case."""
    queried = dict.fromkeys(name for manifest in manifests.values() for name in manifest.labels)
    found = {name for manifest in manifests.values() for name in _found(manifest)}
    return tuple(name for name in queried if name not in found)


def _found(manifest: Manifest) -> Iterable[str]:
    return [one.label for one in manifest.volumes if one.volume_ml > 0]
