"""Match predictions with references by their names: `CASE`, `CASE.rater1`, ... and `CASE.alternative1`, ..."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError, listed, merged
from plans.file_names import FILE_ENDINGS, alternative_of, split_channel, split_ending
from plans.raw.case_files import by_stem, names_in, unread
from plans.raw.dataset import is_plain_name
from plans.raw.raters import group_references
from textdiffseg.evaluation.answers import PredictedLabels


@dataclass(frozen=True)
class Pair:
    """The files of one case."""

    prediction: Path
    references: tuple[Path, ...]  # one, or one per rater
    alternatives: tuple[Path, ...] = ()  # beside the prediction, by their numbers


def match_files(
    predictions: Path, references: Path, partial_predictions: bool = False
) -> tuple[dict[str, Pair], list[str]]:
    """The files of each case, and notes about files that are left out."""
    if predictions.is_file() and references.is_file():
        return {split_ending(references.name)[0]: Pair(predictions, (references,))}, []
    predicted, expected = _label_files(predictions), _references(references, predictions)
    masks, alternatives = _split_alternatives(predicted, expected)
    missing = [case for case in expected if case not in masks]
    if missing and not partial_predictions:
        faults = merged((case, f"{predictions} has no prediction for {expected[case][0]}.") for case in missing)
        stems = (split_channel(stem) for stem in masks)
        channels = any(stem is not None and stem[0] in missing for stem in stems)
        rename = "Rename predictions such as CASE_0000.nii.gz to CASE.nii.gz. " if channels else ""
        raise UserError(*faults, f"{rename}Predict these cases, or leave them out with --partial.")
    pairs = {
        case: Pair(masks[case], paths, alternatives.get(case, ())) for case, paths in expected.items() if case in masks
    }
    if not pairs:
        raise UserError(
            f"No file in {predictions} ({_examples(masks.values())}) has the name of a file in {references} "
            f"({_examples(paths[0] for paths in expected.values())}). Rename the files."
        )
    notes = [f"{len(missing)} references without a prediction were left out: {listed(missing)}."] if missing else []
    if predictions.resolve() == references.resolve():
        notes.append("The predictions and the references are the same folder, so all scores are perfect.")
    notes += unread(references, (name for name in names_in(references) if (references / name).is_file()))
    if extra := [case for case in masks if case not in expected]:
        notes.append(f"{len(extra)} predictions without a reference were left out: {listed(extra)}.")
    return pairs, notes


def shares_of(pair: Pair, manifest: PredictedLabels) -> tuple[float, ...]:
    """The share of each alternative of a case, from the manifest of its prediction. Without one, all are equal.

    Raises `UserError` if the files are not those that the manifest lists.
    """
    if not manifest.alternatives:
        return tuple(1 / len(pair.alternatives) for _ in pair.alternatives)
    shares = {alternative.file: alternative.share for alternative in manifest.alternatives}
    if {path.name for path in pair.alternatives} != {*shares}:
        raise UserError(
            f"{pair.prediction}: its manifest lists the alternatives {', '.join(shares)}, but the files are others. "
            "Predict this case again."
        )
    return tuple(shares[path.name] for path in pair.alternatives)


def _references(folder: Path, predictions: Path) -> dict[str, tuple[Path, ...]]:
    """The references of each case. A name that a prediction has, too, is a case of its own."""
    faults: list[str] = []
    files = {case: path.name for case, path in _label_files(folder).items()}
    prediction_stems = {split_ending(name)[0] for name in names_in(predictions)}
    grouped = group_references(folder, files, prediction_stems, faults)
    if faults:
        raise UserError(*faults)
    return {case: tuple(folder / name for name in names) for case, names in grouped.items()}


def _split_alternatives(
    predicted: Mapping[str, Path], cases: Collection[str]
) -> tuple[dict[str, Path], dict[str, tuple[Path, ...]]]:
    """The masks by case, and the alternatives beside them. A name that a reference has, too, is a mask."""
    masks, numbered = dict(predicted), dict[str, dict[int, Path]]()
    for stem in predicted:
        mask, number = alternative_of(stem)
        if number is not None and mask in predicted and stem not in cases:
            numbered.setdefault(mask, {})[number] = masks.pop(stem)
    ordered = {mask: tuple(paths[number] for number in sorted(paths)) for mask, paths in numbered.items()}
    return masks, ordered


def _label_files(folder: Path) -> dict[str, Path]:
    """The segmentations in a folder: case -> file."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give two folders of segmentations, or two files.")
    faults: list[str] = []
    files = {case: folder / name for case, name in by_stem(folder, names_in(folder), faults).items()}
    faults += [f"{path} is not a file. Copy it again, or remove it." for path in files.values() if not path.is_file()]
    faults += [
        f"{folder}: the folder {case} and the file {path.name} would be one case. Move one of them away."
        for case, path in files.items()
        if (folder / case).is_dir()
    ]
    faults += [
        f"{path}: expected a name of printable characters in UTF-8. Rename it."
        for case, path in files.items()
        if not is_plain_name(case)
    ]
    if faults:
        raise UserError(*faults)
    if not files:
        raise UserError(f"{folder} contains no segmentation. Expected files that end with {', '.join(FILE_ENDINGS)}.")
    return files


def _examples(files: Iterable[Path]) -> str:
    return ", ".join(path.name for path in list(files)[:3])
