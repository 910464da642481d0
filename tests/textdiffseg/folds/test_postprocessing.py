import numpy as np
import pytest

from plans.layout import FoldFolder
from textdiffseg.files import write_record
from textdiffseg.folds.ensemble import load_ensemble
from textdiffseg.folds.postprocessing import (
    Postprocessing,
    PostprocessingTrial,
    PostprocessingTrials,
    choose_postprocessing,
    read_postprocessing,
    shared_postprocessing,
)
from textdiffseg.folds.weights import hash_weights

NONE = Postprocessing()
LARGEST = Postprocessing(components="largest")
SMALL = Postprocessing(least_ml=0.1)
HOLES = Postprocessing(fill_holes=True)


def trials(label="liver", weights=None, **gains):
    """Trials of a label whose Dice without postprocessing is 0.5 in every case."""
    steps = {"largest": LARGEST, "small": SMALL, "holes": HOLES}
    cases = len(next(iter(gains.values())))
    rows = [PostprocessingTrial(step=NONE, dice=(0.5,) * cases)]
    rows += [PostprocessingTrial(step=steps[name], dice=tuple(0.5 + d for d in of)) for name, of in gains.items()]
    return PostprocessingTrials(weights=weights, labels={label: tuple(rows)})


def chosen(*folds):
    return choose_postprocessing(folds).get("liver", NONE)


def test_a_step_needs_a_gain_beyond_two_standard_errors():
    assert chosen(trials(largest=[0.1, 0.12, 0.08, 0.1])) == LARGEST
    assert chosen(trials(largest=[0.4, 0, 0, 0, 0, 0])) == NONE, "a single case"
    assert chosen(trials(largest=[0.2, -0.15, 0.1, -0.05, 0.1])) == NONE
    assert chosen(trials(largest=[0.0, 0, 0, 0])) == NONE
    assert chosen(trials(largest=[0.1, 0.1, 0.1])) == NONE, "too few cases"


def test_the_cases_of_all_folds_decide_together_and_no_fold_may_lose():
    weak = trials(largest=[0.1, 0.1])
    assert chosen(weak) == NONE
    assert chosen(weak, weak) == LARGEST
    assert chosen(weak, weak, weak, trials(largest=[-0.01, 0.005])) == NONE
    assert chosen(weak, None, weak) == LARGEST, "a fold without trials"


def test_the_best_step_on_components_is_joined_with_holes():
    both = trials(largest=[0.1] * 4, small=[0.11] * 4, holes=[0.01] * 4)
    assert chosen(both) == Postprocessing(least_ml=0.1, fill_holes=True)
    assert chosen(trials(largest=[-0.1] * 4, holes=[0.01] * 4)) == HOLES


def test_only_steps_that_every_fold_tried_are_used():
    assert chosen(trials(largest=[0.1] * 4, small=[0.3] * 4), trials(largest=[0.1] * 4)) == LARGEST


def test_averaged_models_share_only_what_each_chooses():
    """Both have the same cases, so their gains do not add up."""
    weak, strong = trials(largest=[0.1, 0.1]), trials(largest=[0.1] * 4)
    assert choose_postprocessing([weak, weak]) == {"liver": LARGEST}, "two folds of one model"
    assert shared_postprocessing([[weak], [weak]]) == {}
    assert shared_postprocessing([[strong], [strong]]) == {"liver": LARGEST}
    assert shared_postprocessing([[strong], [trials(small=[0.1] * 4)]]) == {}
    assert shared_postprocessing([[strong], [None]]) == {}


def test_trials_of_other_cases_or_without_a_first_one_are_refused():
    row = PostprocessingTrial(step=NONE, dice=(0.5, 0.5))
    for rows in ((), (row.model_copy(update={"step": LARGEST}),), (row, row.model_copy(update={"dice": (0.5,)}))):
        with pytest.raises(ValueError, match="liver needs trials of the same cases"):
            PostprocessingTrials(labels={"liver": rows})


def test_each_label_has_its_own_steps():
    other = trials("spleen", small=[0.1] * 4)
    assert choose_postprocessing([trials(largest=[0.1] * 4), other]) == {"liver": LARGEST, "spleen": SMALL}


def test_the_largest_component_and_the_least_volume_hold_together():
    millilitres = np.array([0.5, 2.0, 2.0, 0.05])
    assert NONE.kept(millilitres).all()
    assert LARGEST.kept(millilitres).tolist() == [False, True, False, False], "the first of equal ones"
    assert SMALL.kept(millilitres).tolist() == [True, True, True, False]
    assert not Postprocessing(components="largest", least_ml=3).kept(millilitres).any()
    assert LARGEST.kept(np.array([])).shape == (0,)


def test_steps_in_words():
    assert str(NONE) == "none"
    assert str(Postprocessing(components="largest", fill_holes=True)) == "keep the largest component, fill holes"
    assert str(SMALL) == "drop components below 0.1 ml"


def test_trials_of_other_weights_are_not_used(root, plan):
    model = root / "results" / plan.dataset / "default"
    folds = [FoldFolder(model / f"fold_{number}") for number in (0, 1)]
    for fold in folds:
        write_record(fold.postprocessing, trials("back", hash_weights(fold, "best"), largest=[0.1] * 4))
    assert load_ensemble(model).postprocessing == {"back": LARGEST}
    assert load_ensemble(model, checkpoint="latest").postprocessing == {}
    assert read_postprocessing(folds[0], "best") is not None
    write_record(folds[0].postprocessing, trials("back", "0" * 64, largest=[0.1] * 4))
    assert read_postprocessing(folds[0], "best") is None


@pytest.mark.parametrize("field", [{"least_ml": -1}, {"components": "smallest"}])
def test_a_step_that_does_not_exist_is_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        Postprocessing(**field)
