"""Checks of stored cases: is every file undamaged, and do the cases fit the plan?"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from plans.errors import UserError, merged
from plans.fields import READ_BY_PREPROCESSING
from plans.layout import PreprocessedFolder
from plans.plan import Plan
from plans.planning.spacing import as_option
from textdiffseg.data.arrays import RUN_AGAIN, array_names, array_path, reference_array
from textdiffseg.data.store import StoredCase, open_array_of, open_case, read_record
from textdiffseg.files import hash_text
from textdiffseg.progress import StepProgress
from textdiffseg.resources import cores

MAX_READERS = 8  # files that are read at a time; more slow a disk down


def check_cases(folder: Path, cases: Sequence[str], plan: Plan, progress: StepProgress | None = None) -> None:
    """Raise `UserError` with every case that is missing, damaged, or stored by another plan.

    All files are read once, several at a time. A damaged file is thus reported before the work starts.

    Args:
        folder: the folder of the preprocessed data set.
        cases: ids of the cases to check.
        plan: the plan that the cases must fit.
        progress: called with (cases checked, all cases).
    """
    faults: list[tuple[str, str]] = []
    with ThreadPoolExecutor(min(MAX_READERS, cores())) as readers:
        read = readers.map(partial(_hash_ahead, folder), cases)
        for done, (case, _) in enumerate(zip(cases, read, strict=True), start=1):
            try:
                stored = open_case(folder, case)
                for index in range(stored.record.references):
                    open_array_of(stored.folder, stored.record, reference_array("original", index))
                faults += [(case, line) for line in _misfits(stored, plan)]
            except UserError as error:
                faults += [(case, line) for line in error.lines]
            if progress:
                progress(done, len(cases))
    if faults:
        raise UserError(*merged(faults))


def is_complete(folder: Path, case: str, expected_hash: str) -> bool:
    """Whether a case is stored whole and undamaged, from the same files and with the same settings.

    A record without hashes is not complete, because its arrays cannot be checked.
    """
    cases = PreprocessedFolder(Path(folder)).cases
    try:
        record = read_record(folder, case)
        names = array_names(record.references)
        faults = [record.files[name].fault_of(array_path(cases, case, name)) for name in names]
    except (UserError, OSError, KeyError):
        return False
    return record.hash == expected_hash and not any(faults)


def preprocessing_settings(plan: Plan) -> dict[str, str]:
    """A hash for each field of the plan that decides what is stored, by the field's name."""
    fields = plan.model_dump(mode="json", include=READ_BY_PREPROCESSING | ({"regions"} if plan.regions else set()))
    for channel in fields["channels"]:
        del channel["optional"]  # a stored channel is the same, whether other cases may lack it
    if plan.crop != "body":  # so cases stay valid that were stored when plans had no other crop
        fields["crop_to_nonzero"] = fields.pop("crop") == "nonzero"
    return {name: hash_text(json.dumps(value, sort_keys=True))[:12] for name, value in sorted(fields.items())}


def _hash_ahead(folder: Path, case: str) -> None:
    """Check the hashes of a case. Faults are reported later, by `open_case`."""
    cases = PreprocessedFolder(Path(folder)).cases
    with suppress(UserError, OSError):
        for name, expected in read_record(folder, case).files.items():
            expected.fault_of(array_path(cases, case, name))


def _misfits(case: StoredCase, plan: Plan) -> list[str]:
    expected = preprocessing_settings(plan)
    stored = case.record.settings
    fields = [field for field in sorted(expected | stored) if stored.get(field) != expected.get(field)]
    if not fields:
        return _size_misfits(case, plan)
    way_out = "Put the plan back, or run tds_plan_and_preprocess again"
    if "spacing" in fields and plan.resolution == "full":
        way_out += f" with --preset {plan.preset} --spacing {as_option(plan.spacing)}"
    return [f"{case.folder}: case {case.record.case} was stored by a plan with other {', '.join(fields)}. {way_out}."]


def _size_misfits(case: StoredCase, plan: Plan) -> list[str]:
    """A line if the record or the image has other channels or labels than the plan, e.g. after an edit by hand."""
    record = case.record
    channels, largest = case.image.shape[0], max((0, *record.present, *record.known))
    if channels != len(plan.channels) or largest > len(plan.labels):
        return [
            f"{case.folder}: case {record.case} has {channels} channels and label number {largest}; the plan has "
            f"{len(plan.channels)} channels and {len(plan.labels)} labels. {RUN_AGAIN}"
        ]
    return []
