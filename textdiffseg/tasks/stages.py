"""The stages of one scan: check, read, segment, write. A fault ends the stages of its scan, not those of others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from plans.errors import UserError, listed
from plans.file_names import manifest_path
from plans.raw.dataset import is_plain_name
from textdiffseg.files import write_record
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.memory import Kept, no_memory, refuse_too_large
from textdiffseg.inference.result import Result
from textdiffseg.inference.scan import window_reporter
from textdiffseg.inference.segmenting import PreparedScan
from textdiffseg.progress import Cancel, OnProgress
from textdiffseg.resources import is_out_of_memory
from textdiffseg.tasks.derived import DerivedFiles
from textdiffseg.tasks.manifest import Manifest, Request, hash_inputs, read_manifest
from textdiffseg.tasks.one_scan import (
    PredictionRun,
    check_channels,
    drop_outputs,
    manifest_of,
    mask_path,
    refuse_files_of_others,
    request_of,
)


@dataclass(frozen=True)
class Work:
    """What the stages of one scan have found so far."""

    case: str
    paths: tuple[Path, ...]
    mask: Path  # to write
    complete: bool = False  # its files were there
    corrected: bool = False  # it is complete, but the mask is not the predicted one
    request: Request | None = None
    before: Manifest | None = None  # of an earlier mask
    scan: PreparedScan | None = None
    volume: Volume | None = None  # kept for the picture
    result: Result | None = None
    notes: tuple[str, ...] = ()  # on the scan
    fault: UserError | None = None

    def failed(self, fault: UserError) -> "Work":
        """The end of the work, without its arrays, which the frames of the error hold, too."""
        fault = UserError(*fault.lines)
        return replace(self, scan=None, volume=None, result=None, fault=fault)


Stage = Callable[[Work], Work]
CORRECTED = (
    "{mask} was changed after it was predicted. It is kept. Its volumes are those of the prediction; the files that "
    "were made from the mask before the change are deleted, or made again."
)


def each(stage: Stage, works: Iterable[Work], device: str = "cpu") -> Iterator[Work]:
    """The works after a stage. Scans that are complete or have a fault pass it. `device`: for the advice of faults."""
    for work in works:
        if work.complete or work.fault:
            yield work
            continue
        done = _after(stage, work, device)
        del work  # frees the memory of what this stage used
        yield done
        del done


def _after(stage: Stage, work: Work, device: str) -> Work:
    try:
        return stage(work)
    except UserError as error:
        return work.failed(error)
    except (IsADirectoryError, FileExistsError) as error:
        return work.failed(UserError(f"{error.filename} is in the way of an output. Move it away."))
    except Exception as error:
        if is_out_of_memory(error):
            return work.failed(UserError(no_memory(device)))
        error.add_note(f"while predicting case {work.case} ({', '.join(map(str, work.paths))})")
        raise


def start(run: PredictionRun, case: str, paths: tuple[Path, ...]) -> Work:
    """The work on a scan, before its first stage."""
    return Work(case, paths, mask_path(run, case, paths))


def read(run: PredictionRun, work: Work) -> Work:
    """Check whether the scan is complete or its files are those of others, and read it on the plan's grid."""
    from textdiffseg.imaging.sources.files import read_geometry, read_volume

    case, paths, mask, prepared = work.case, work.paths, work.mask, run.prepared
    if not is_plain_name(case):
        raise UserError(f"{paths[0]}: expected a name of printable characters in UTF-8, 200 bytes at most. Rename it.")
    missing = run.missing.get(case, ())
    if len(paths) > 1:  # a single file may hold all channels; it is checked when it is read
        check_channels(len(paths) + len(missing), prepared.plan, paths)
    request = request_of(run, case, hash_inputs(paths, missing))
    before = read_manifest(manifest_path(mask))
    derived = DerivedFiles(run, mask, paths)
    derived.check(before)
    standing = None if run.overwrite or before is None else before.standing(request, mask)
    if before is not None and standing is not None:
        corrected = standing == "corrected"
        derived.complete(before, corrected)
        notes = (CORRECTED.format(mask=mask),) if corrected else ()
        return replace(work, complete=True, corrected=corrected, notes=notes)
    refuse_files_of_others(run, mask, manifest_path(mask), paths, before)
    kept = Kept(scan=run.picture)
    refuse_too_large(prepared, read_geometry(paths[0]), kept=kept)
    volume = read_volume(paths, missing=missing)
    check_channels(len(volume.array), prepared.plan, paths)
    size = volume.array.itemsize
    scan = prepared.read(volume, partial(refuse_too_large, prepared, volume.geometry, kept=kept, value_bytes=size))
    return replace(work, request=request, before=before, scan=scan, volume=volume if kept.scan else None)


def segment(run: PredictionRun, work: Work, progress: OnProgress, cancel: Cancel, folder: Path | None) -> Work:
    """Segment the scan. `folder`: for its maps; None: it has none."""
    assert work.scan is not None, "expected a scan that was read"
    report_windows = window_reporter(progress, cancel, work.case)
    report_windows(0, 1)  # the bar is there before the first window is done
    inner = None if folder is None else folder / work.case
    if inner is not None:
        inner.mkdir()
    result = run.prepared.run(work.scan, run.texts.get(work.case), report_windows, inner)
    return replace(work, scan=None, result=result)


def write(run: PredictionRun, work: Work) -> Work:
    """Write the files of the scan, between two manifests: one without outputs, and the final one."""
    assert work.result is not None, "expected a scan that was segmented"
    assert work.request is not None, "expected a scan that was read"
    mask, result = work.mask, work.result
    derived = DerivedFiles(run, mask, work.paths)
    derived.drop(work.before)
    drop_outputs(run, mask, work.before)
    write_record(manifest_path(mask), Manifest(request=work.request))
    final = manifest_of(run, work.request, result, result.write(run.out, mask.name))
    write_record(manifest_path(mask), final)
    derived.write(result, work.volume, final)
    gone = [] if work.before is None else [name for name in work.before.labels if name not in final.labels]
    replaced = (f"It replaced a mask that also had {listed(gone)}.",) if gone else ()
    return replace(work, volume=None, result=None, notes=(*result.scan_notes, *replaced))
