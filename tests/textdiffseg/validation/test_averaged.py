import numpy as np
import pytest
import torch

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.data.store import open_case
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.windows import Prediction, Slab
from textdiffseg.validation.averaged import score_averaged
from textdiffseg.validation.cases import queries_of, restore_labels, score_labels


@pytest.fixture
def pair(tmp_path, make_plan, make_fold, bank):
    """A fold of preset `default` and one of `unet`, with different weights."""
    folds = [FoldFolder.of(tmp_path, "Dataset900_Tiny", preset, 0) for preset in ("default", "unet")]
    for seed, fold in enumerate(folds):
        make_fold(fold.path, make_plan(fold.path.parent.name), bank, seed)
    return folds


def test_a_pair_is_the_mean_of_both_probabilities(small, pair, plan, bank):
    done = []
    found = score_averaged(pair, small, ["p", "q"], progress=lambda *at: done.append(at))
    assert done[-1] == (2, 2)
    for case_id, scores in zip(("p", "q"), found, strict=True):
        case, p = open_case(small, case_id, plan), []
        for fold in pair:
            predictor = Predictor([load_network(fold)], PredictionSettings())
            image = torch.from_numpy(case.image[...].astype(np.float32))
            p.append(predictor.predict_image(image, queries_of(predictor.plan, case, bank)).probabilities)
        mean = Slab(0, Prediction((p[0] + p[1]) / 2))
        expected = score_labels(plan, case, restore_labels(predictor.readout, [mean], case), surfaces=True)
        assert scores == expected
        assert scores.labels["back"].dice is not None


def test_models_of_other_patches_are_not_averaged(small, pair, make_plan, make_fold, bank, tmp_path):
    make_fold(tmp_path / "wide" / "fold_0", make_plan("unet", patch=(8, 16, 24)), bank, 2)
    with pytest.raises(UserError, match=r"cannot be averaged: their plans differ in patch\. Choose one with -m\."):
        score_averaged([pair[0], FoldFolder(tmp_path / "wide" / "fold_0")], small, ["p"])
