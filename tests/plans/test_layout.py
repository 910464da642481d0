"""The folders of the two resolutions."""

from pathlib import Path

from plans.layout import FoldFolder, PreprocessedFolder, low_model


def test_low_resolution_has_its_own_plan_and_cases_and_the_data_set_s_words_folds_and_lock():
    full = PreprocessedFolder(Path("preprocessed/Dataset001_X"))
    low = full.low("unet")
    assert low.path == full.path / "unet-low"
    assert low.cases == full.path / "unet-low" / "cases"
    assert low.plan("unet") == full.path / "unet-low" / "plan_unet.json"
    assert low.fitted_plan("unet").parent == low.fitting_lock.parent == low.path
    assert low.of_dataset == full.of_dataset == full
    assert low.splits == full.splits
    assert low.planning_lock == full.planning_lock
    assert low.words("unet", "bundled") == full.words("unet", "bundled")
    assert low.case_texts("unet", "bundled") == full.case_texts("unet", "bundled")


def test_the_low_resolution_model_lies_beside_the_full_one():
    full = FoldFolder.of(Path(), "Dataset001_X", "default", 0)
    low = FoldFolder.of(Path(), "Dataset001_X", "default", 0, "low")
    assert full.path == Path("results/Dataset001_X/default/fold_0")
    assert low.path == Path("results/Dataset001_X/default-low/fold_0")
    assert low_model(full.path.parent) == low.path.parent
