"""Four stored cases, folds to validate them, and predictions with known probabilities."""

import numpy as np
import pytest
import torch

from textdiffseg.data.store import CaseRecord, save_case
from textdiffseg.files import write_record
from textdiffseg.imaging.volume import Volume
from textdiffseg.inference.windows import Prediction, Slab
from textdiffseg.preprocessing.case import preprocess_image, preprocess_labels
from textdiffseg.validation import calibrate, degrading, score

CASES = ("p", "q", "r", "s")


@pytest.fixture(scope="session")
def in_slabs():
    """A function that yields probabilities (K, D, H, W) as slabs."""

    def of(p, planes=2):
        for first in range(0, p.shape[1], planes):
            part = np.ascontiguousarray(p[:, first : first + planes], np.float32)
            yield Slab(first, Prediction(torch.from_numpy(part)))

    return of


@pytest.fixture(scope="session")
def one_hot():
    """A function that returns the right probabilities (K, D, H, W) of a stored case."""
    return lambda case: np.eye(3, dtype=np.float32)[case.labels[...]].transpose(3, 0, 1, 2)


@pytest.fixture
def predict_as(monkeypatch):
    """A function that lets another one predict every stored case."""

    def replace(function):
        for module in (score, calibrate, degrading):
            monkeypatch.setattr(module, "predict_case", function)

    return replace


@pytest.fixture
def stored(tmp_path, plan, make_geometry):
    """Four stored cases of several windows, their labels a block each."""
    blocks = (slice(2, 5), slice(4, 10), slice(3, 9)), (slice(5, 8), slice(10, 16), slice(8, 14))
    return store_cases(tmp_path / "preprocessed", plan, make_geometry, (9, 20, 17), blocks)


@pytest.fixture
def small(tmp_path, plan, make_geometry):
    """Four stored cases of two windows, for tests that predict them often."""
    blocks = (slice(1, 3), slice(2, 7), slice(2, 7)), (slice(3, 5), slice(9, 14), slice(9, 14))
    return store_cases(tmp_path / "preprocessed", plan, make_geometry, (5, 16, 16), blocks)


def store_cases(folder, plan, make_geometry, shape, blocks):
    """Store the cases with the labels 1 and 2 in two blocks; returns the folder."""
    for index, case in enumerate(CASES):
        rng = np.random.default_rng(index)
        volume = Volume(rng.normal(100, 20, (1, *shape)).astype(np.float32), make_geometry(shape))
        labels = np.zeros(shape, np.int16)
        labels[blocks[0]], labels[blocks[1]] = 1, 2
        image, transform = preprocess_image(volume, plan)
        on_plan = preprocess_labels(labels, transform, plan)
        record = CaseRecord(
            case=case,
            hash="0",
            settings={},
            shape=transform.shape,
            present=(1, 2),
            annotated=(1, 2),
            transform=transform,
        )
        save_case(folder, record, image, on_plan, labels)
    return folder


@pytest.fixture
def fold(root, plan):
    return root / "results" / plan.dataset / "default" / "fold_0"


@pytest.fixture(scope="session")
def change():
    """A function that changes fields in the record of a stored case."""

    def change(folder, case, **changes):
        path = folder / "cases" / f"{case}.json"
        write_record(path, CaseRecord.read(path).model_copy(update=changes))

    return change


@pytest.fixture
def nested_fold(tmp_path, bank, plan, make_fold):
    """A fold whose first label holds the second: values 3 and 7, and 3."""
    fold = tmp_path / "nested" / "fold_0"
    make_fold(fold, plan.model_copy(update={"regions": ((3, 7), (3,))}), bank, 0)
    return fold


@pytest.fixture(scope="session")
def exact_nested(in_slabs):
    """A prediction of labels that overlap: right everywhere, and as sure as 0.9."""

    def predicted(predictor, case, queries, **_):
        numbers = case.labels[...]  # 1 is the value 3, 2 the value 7
        whole, part = (np.where(mask, 0.9, 0.1).astype(np.float32) for mask in (numbers > 0, numbers == 1))
        return in_slabs(np.stack([1 - whole, whole, part]))

    return predicted
