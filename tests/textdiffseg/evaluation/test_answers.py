"""Which labels a prediction answers."""

import numpy as np

from textdiffseg.evaluation.answers import PredictedLabels, scored_labels

OWN = {"liver": 1, "spleen": 2, "liver tumour": 3}


def found(annotated=tuple(OWN), **manifest):
    return scored_labels(PredictedLabels(**manifest), OWN, annotated)


def test_without_a_manifest_values_mean_what_they_mean_in_the_references():
    answers = found()
    assert answers.labels == tuple(OWN)
    array = np.arange(5)
    assert answers.translated(array) is array


def test_a_name_that_a_user_gave_is_the_label_behind_it():
    answers = found(labels={"mass": 10, "Liver": 20}, means={"mass": "liver tumour"})
    assert answers.labels == ("liver", "liver tumour")
    assert answers.translated(np.array([0, 10, 20])).tolist() == [0, 3, 1]
    assert not answers.notes


def test_words_that_ran_by_force_are_scored_by_their_value_and_noted():
    answers = found(labels={"adrenal mass": 1, "spleen": 2})
    assert answers.labels == ("liver", "spleen")
    assert answers.notes == (
        "adrenal mass is not a label of the references. It is scored as liver, which has its value.",
    )
    other = found(labels={"adrenal mass": 1, "liver": 2})
    assert (other.labels, other.translated(np.array([1, 2])).tolist()) == (("liver",), [0, 1]), "the name counts first"


def test_only_what_is_annotated_is_scored():
    assert found(annotated=("spleen",), labels={"liver": 1, "spleen": 2}).labels == ("spleen",)
