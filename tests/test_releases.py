"""Every release opens the models, stored cases and records of the releases before it (`released.py` keeps them).

DESIGN 3: formats are versioned, with readers of older versions. A change that makes one of these tests fail needs a
reader of the older version, or a default for a new field. The kept files are never changed.
"""

import re
import shutil
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import nibabel
import numpy as np
import pytest

import textdiffseg as tds
from plans.fingerprint import CaseFingerprint
from plans.layout import FoldFolder, PreprocessedFolder, RawFolder
from plans.plan import Plan
from plans.raw.prompts import Prompts
from textdiffseg.data.splits import Splits, read_splits
from textdiffseg.data.store import open_case
from textdiffseg.evaluation.summary import Summary
from textdiffseg.folds.calibration import read_calibration
from textdiffseg.folds.cases import FoldCases
from textdiffseg.folds.position import read_position
from textdiffseg.folds.sampling import read_sampling
from textdiffseg.folds.state import Validated
from textdiffseg.tasks.manifest import Manifest
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import read_case_texts
from textdiffseg.training.dry_run import FittedPlan
from textdiffseg.training.log import read_log

ARCHIVES = sorted((Path(__file__).parent / "releases").glob("*.zip"))
DATASET, CASE, SCAN = "Dataset001_Cubes", "cubes_00", "cubes_08"
PRESET = "default"


@pytest.fixture(scope="module", params=ARCHIVES, ids=[path.stem for path in ARCHIVES])
def root(request, tmp_path_factory) -> Path:
    """The files of one release."""
    folder = tmp_path_factory.mktemp(request.param.stem)
    shutil.unpack_archive(request.param, folder)
    return folder


@pytest.fixture(scope="module")
def preprocessed(root) -> PreprocessedFolder:
    return PreprocessedFolder(root / "preprocessed" / DATASET)


@pytest.fixture(scope="module")
def fold(root) -> FoldFolder:
    return FoldFolder.of(root, DATASET, PRESET, 0)


def scan_of(root: Path) -> Path:
    return RawFolder(root / "raw" / DATASET).images("Ts") / f"{SCAN}_0000.nii.gz"


def test_its_model_segments_a_scan_as_it_did_then(root, fold):
    model = tds.load(fold.path.parent, device="cpu")
    scan, then = scan_of(root), root / "out" / f"{SCAN}.nii.gz"
    mask = np.asanyarray(nibabel.load(then).dataobj).transpose()
    assert set(np.unique(mask)) == {0, 1, 2}
    now = model.segment(scan).labels
    assert (now != mask).mean() < 1e-3, "another processor may change single voxels"
    prompted = model.segment(scan, prompts=["dark cube"]).labels
    assert ((prompted == 2) != (mask == 2)).mean() < 1e-3


def test_its_model_still_draws_samples(root, fold):
    """The sampler's weights open, too: alternatives are drawn from them."""
    model = tds.load(fold.path.parent, device="cpu")
    found = model.segment(scan_of(root), alternatives=2)
    assert sum(one.share for one in found.alternatives) == pytest.approx(1)


def test_its_plans_open(preprocessed, fold):
    """A plan of this release may lack fields that later ones have."""
    plan = Plan.read(preprocessed.plan(PRESET))
    assert [label.name for label in plan.labels] == ["bright cube", "dark cube"]
    assert FittedPlan.read(preprocessed.fitted_plan(PRESET)).plan == Plan.read(fold.plan)


def test_its_stored_case_opens(preprocessed):
    """Every hash, shape and label of the arrays is checked when they are read."""
    plan = Plan.read(preprocessed.plan(PRESET))
    case = open_case(preprocessed.path, CASE, plan)
    assert case.image[...].shape == (1, *case.record.shape)
    assert set(np.unique(case.references[0][...])) == set(np.unique(case.original_labels())) == {0, 1, 2}
    assert len(case.foreground)


def test_its_words_open(preprocessed, fold):
    bank = TextBank.load(fold.words)
    assert bank.labels == ("bright cube", "dark cube")
    texts = read_case_texts(preprocessed.case_texts(PRESET, "bundled"), bank, [CASE])
    assert texts[CASE].shape[1] == bank.width


def test_its_records_open(root, preprocessed, fold):
    Prompts.read(RawFolder(root / "raw" / DATASET).prompts)
    assert CaseFingerprint.read(preprocessed.fingerprint(CASE)).case == CASE
    splits = Splits.read(preprocessed.splits)
    assert read_splits(preprocessed.splits, splits.cases) == splits
    assert FoldCases.read(fold.cases).train == splits.folds[0].train
    assert read_position(fold, "best").finished
    assert read_sampling(fold).checkpoint == "best"
    assert read_calibration(fold).fits
    assert Validated.read(fold.validated).checkpoint == "best"
    assert read_log(fold.log)[-1].losses
    assert Summary.read(fold.summary).mean.dice > 0.9
    assert Manifest.read(root / "out" / f"{SCAN}.json").request.case == SCAN


def test_this_version_has_its_files():
    """A release is made with its own files, so that the next one can open them."""
    if ".dev" not in tds.__version__:
        assert tds.__version__ in {path.stem for path in ARCHIVES}


def test_its_files_have_every_format(repository):
    """A new kind of file needs a pattern in `released.py`, and a test above."""
    archive = repository / "tests" / "releases" / f"{tds.__version__}.zip"
    if not archive.is_file():
        pytest.skip(f"{tds.__version__} is not released yet")
    kept = zipfile.ZipFile(archive).namelist()
    formats = (repository / "docs" / "formats.md").read_text(encoding="utf-8")
    for cell in re.findall(r"^\| (.+?) \| \d+ \| \d+ \| `", formats, re.MULTILINE):
        names = [
            name.replace("CASE", "*").replace("fold_N", "fold_0")
            for name in re.findall(r"`([\w/.]+\.\w+)`", cell)
            if not name.startswith(".") and "tds_export_model" not in cell  # of a running process; inside another file
        ]
        assert not names or any(fnmatch(path, f"*/{name}") for path in kept for name in names), cell
