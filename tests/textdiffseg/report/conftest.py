"""A data set with two presets on disk, as training leaves it. Masks are shifted references, so all scores are known."""

import numpy as np
import pytest

from plans.fingerprint import CaseFingerprint, LabelFingerprint
from plans.layout import FoldFolder, PreprocessedFolder
from plans.plan import Decision, LabelPlan
from textdiffseg.data.store import CaseRecord, save_case
from textdiffseg.evaluation.metrics import score_case
from textdiffseg.evaluation.summary import summarise
from textdiffseg.files import write_record
from textdiffseg.folds.calibration import Calibration, CalibrationFit, Widening
from textdiffseg.folds.expected_dice import KNOTS, DiceFit
from textdiffseg.folds.state import note_validated
from textdiffseg.imaging.volume import Volume
from textdiffseg.imaging.writers.files import write_labels
from textdiffseg.preprocessing.case import preprocess_image
from textdiffseg.training.log import EpochLog, write_log

SHAPE = (20, 24, 28)
VALUES = np.array([0, 7, 3])  # of the labels 1 and 2, in the user's files


def truth() -> np.ndarray:
    """Numbers of two cubes."""
    labels = np.zeros(SHAPE, np.int16)
    labels[5:13, 5:13, 4:12], labels[5:13, 5:13, 14:22] = 1, 2
    return labels


def write_results(root, make_plan, make_geometry, names=("liver", "spleen"), cases=("a", "b", "c", "d"), lesions=()):
    """Preset `default` shifts the mask of case number n by n voxels, preset `unet` by n + 1."""
    reasons = (Decision(name="spacing", value="1 x 1 x 1", reason="median spacing of the cases"),)
    labels = tuple(LabelPlan(name=name, value=int(value)) for name, value in zip(names, VALUES[1:], strict=True))
    plan = make_plan(labels=labels, reasons=reasons)
    place = PreprocessedFolder(root / "preprocessed" / plan.dataset)
    place.cases.mkdir(parents=True)
    write_record(place.plan("default"), plan)
    for number, case in enumerate(cases):
        _store(place, plan, case, make_geometry, number)
    for shift, preset in enumerate(("default", "unet")):
        own = plan.model_copy(update={"preset": preset, "diffusion": None if shift else plan.diffusion})
        fold = FoldFolder.of(root, plan.dataset, preset, 0)
        fold.validation.mkdir(parents=True)
        write_record(fold.plan, own)
        scores = []
        for number, case in enumerate(cases):
            mask = np.roll(truth(), number + shift, axis=0)
            write_labels(fold.mask(case), VALUES[mask], make_geometry(SHAPE))
            scores.append(score_case(mask, truth(), (2, 1, 1), dict(enumerate(names, 1)), case=case, lesions=lesions))
        write_record(fold.summary, summarise(scores))
        fold.checkpoint("best").write_bytes(preset.encode())
        note_validated(fold)
        write_log(fold.log, [_epoch(number, names) for number in range(3)])
        if not shift:
            write_record(fold.calibration, Calibration(fits=(_fit(names),)))
    return plan


def _store(place, plan, case, make_geometry, seed):
    noise = np.random.default_rng(seed).normal(100, 10, (1, *SHAPE))
    volume = Volume((noise + 50 * truth()).astype(np.float32), make_geometry(SHAPE))
    image, transform = preprocess_image(volume, plan)
    numbers = np.zeros(transform.shape, np.int16)
    record = CaseRecord(
        case=case, hash="0", settings={}, shape=transform.shape, present=(1, 2), annotated=(1, 2), transform=transform
    )
    save_case(place.path, record, image, numbers, truth())
    cube = dict(voxels=512, volume_mm3=1024.0 * (seed + 1), thickness_mm=8.0, extent_mm=(8.0, 8.0, 16.0))
    fingerprint = CaseFingerprint(
        case=case,
        shape=SHAPE,
        spacing=(1.0, 1.0, 2.0),
        cropped_shape=SHAPE,
        intensities=((90.0, 100.0, 110.0, 150.0),),
        labels=tuple(LabelFingerprint(label=number, **cube) for number in (1, 2)),
        content_hash="0",
    )
    write_record(place.fingerprint(case), fingerprint)


def _epoch(number, names):
    dice = {name: 0.3 * number for name in names}
    rest = {"losses": {"estimate": 1.0 / (1 + number)}, "latent_dice": {}, "seconds": 60.0 * (number + 1)}
    return EpochLog(epoch=number, iteration=10 * number, learning_rate=0.1, dice=dice, **rest)


def _fit(names):
    shares = dict.fromkeys(names, 0.75)
    return CalibrationFit(
        steps=0,
        samples=1,
        mirroring=False,
        cases=4,
        temperature=1.25,
        ece_before=0.111,
        ece_after=0.0555,
        brier_before=0.3,
        brier_after=0.2,
        widening=Widening(factor=1.5, coverage_before=shares, coverage_after=shares),
        expected_dice=DiceFit(curve=KNOTS, threshold=0.6, scans=6, degraded=2, poor_dice=0.5, error=0.04),
    )


@pytest.fixture
def write(tmp_path, make_plan, make_geometry):
    """A function that writes the results below `tmp_path` and returns the plan."""

    def of(**options):
        return write_results(tmp_path, make_plan, make_geometry, **options)

    return of
