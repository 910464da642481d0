"""`volumes.csv` beside segmentations: the volume of each label in each case. It is made from the manifests."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from plans.errors import UserError
from plans.layout import volume_table
from plans.names import spreadsheet_text
from textdiffseg.files import write_atomically
from textdiffseg.tasks.manifest import Manifest, read_manifest
from textdiffseg.tasks.one_scan import PredictionRun
from textdiffseg.tasks.outcome import Outcome

COLUMNS = ("case", "label", "volume_ml", "low_ml", "high_ml", "expected_dice")
DIGITS = 6  # behind the point; 1.501 ml would be 1.5010000000000001


def refuse_table_of_others(run: PredictionRun) -> None:
    """Raise `UserError` if the table would replace a file that no prediction wrote."""
    path = volume_table(run.out)
    if run.overwrite or run.file_name is not None or not path.exists():
        return
    if not path.is_file() or _first_line(path) != ",".join(COLUMNS).encode():
        raise UserError(f"{path} exists and was not made by tds_predict. Rename it, or --overwrite.")


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline().strip()


def add_table(run: PredictionRun, outcome: Outcome) -> None:
    """Write the table after a run, and note it in the outcome. A system error becomes one of its failures.

    Nothing is written if the mask of one scan went to one file.
    """
    if run.file_name is not None:
        return
    try:
        outcome.table = write_table(run.out)
    except OSError as error:
        line = f"{volume_table(run.out)} cannot be written ({error.strerror}). Correct this, and run the command again."
        outcome.failures.append(line)


def write_table(folder: Path) -> Path | None:
    """The path of the table of all segmentations in a folder, which is written. None if there are none.

    One row per case and label, also for cases of earlier runs. A value that is not known is an empty cell.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    manifests = list(finished(folder))
    for manifest in manifests:
        expected = {} if manifest.expected_dice is None else manifest.expected_dice.labels
        for volume in manifest.volumes:
            values = (volume.volume_ml, volume.low_ml, volume.high_ml, expected.get(volume.label))
            cells = (value if value is None else round(value, DIGITS) for value in values)
            writer.writerow((spreadsheet_text(manifest.request.case), spreadsheet_text(volume.label), *cells))
    if not manifests:
        return None
    write_atomically(volume_table(folder), text.getvalue())
    return volume_table(folder)


def finished(folder: Path) -> Iterator[Manifest]:
    """The manifests in a folder whose mask is there, in the order of their names."""
    for path in sorted(folder.glob("*.json")):
        manifest = read_manifest(path)
        if manifest is not None and manifest.outputs and (folder / next(iter(manifest.outputs))).is_file():
            yield manifest
