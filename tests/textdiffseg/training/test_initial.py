"""Starting from the weights of a trained model whose labels, words and channels differ."""

import shutil

import pytest
import torch

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.network_plan import OverviewPlan
from plans.plan import ChannelPlan, LabelPlan
from textdiffseg.data.splits import Split
from textdiffseg.folds.cases import FoldCases
from textdiffseg.folds.position import read_position
from textdiffseg.folds.weights import hash_weights, read_tensors
from textdiffseg.networks.model import build_model
from textdiffseg.text.bank import TextBank
from textdiffseg.training import initial, loop
from textdiffseg.training.initial import initial_weights, keeping, shared_labels
from textdiffseg.training.options import TrainingOptions

FOLD = Split(train=("a", "b"), validation=("c",))
FIRST = "image_encoder.stages.0.0.0.weight"


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory, shapes_plan, store_shapes):
    return store_shapes(tmp_path_factory.mktemp("preprocessed"), shapes_plan("unet"))


@pytest.fixture(scope="module")
def model(tmp_path_factory, preprocessed):
    """A trained model of one fold, for the labels ball and box."""
    folder = tmp_path_factory.mktemp("model")
    loop.train_fold(preprocessed, FOLD, FoldFolder(folder / "fold_0"), TrainingOptions())
    return folder


def start(model, plan, bank, name="0"):
    fold, cases = FoldFolder(model.parent / "new" / f"fold_{name}"), FoldCases.of("Dataset001_Other", ("a",), ("b",))
    return initial_weights(model, fold, cases, plan, bank, build_model(plan).state_dict())


def test_the_same_labels_start_with_the_same_network(model, shapes_plan):
    fold = FoldFolder(model / "fold_0")
    found = start(model, shapes_plan("unet"), TextBank.load(fold.words), "3")
    trained = read_tensors(fold.checkpoint("best"))
    assert found.share == 1
    assert all(torch.allclose(value, trained[f"ema.{name}"], atol=1e-6) for name, value in found.weights.items())
    assert found.hash == hash_weights(fold, "best")
    assert "ball, box" in found.note


def test_words_that_stay_keep_their_classifier_in_another_text_space(hashed_bank):
    old, new = hashed_bank("ball", "box"), hashed_bank("star", "box", "ball")
    kept = shared_labels(old, new)
    assert kept == {"box": ((2, 0), (2, 0)), "ball": ((1, 0), (3, 0))}
    theirs, ours = old.queries([[(2, 0), (1, 0)]]).vectors[0], new.queries([[(2, 0), (3, 0)]]).vectors[0]
    assert not torch.allclose(theirs, ours, atol=1e-2), "the spaces differ"
    head = torch.randn(9, old.width, generator=torch.Generator().manual_seed(0))
    changed = keeping(head, theirs, ours)
    torch.testing.assert_close(changed @ ours.T, head @ theirs.T, atol=1e-3, rtol=1e-3)
    beyond = torch.randn(old.width, generator=torch.Generator().manual_seed(1))
    beyond -= torch.linalg.pinv(ours) @ (ours @ beyond)
    torch.testing.assert_close(changed @ beyond, head @ beyond, atol=1e-3, rtol=1e-3)  # D is the smallest


def test_other_labels_and_channels_are_welcome(model, shapes_plan, hashed_bank):
    plan = shapes_plan("unet").model_copy(
        update={
            "labels": tuple(LabelPlan(name=name, value=i) for i, name in enumerate(("star", "box", "ring"), 1)),
            "channels": tuple(ChannelPlan(name=name, scheme="zscore") for name in ("T2", "MRI")),
        }
    )
    found = start(model, plan, hashed_bank("star", "box", "ring"))
    assert found.kept == ("box",)
    assert found.share == 1
    trained = read_tensors(FoldFolder(model / "fold_0").checkpoint("best"))[f"ema.{FIRST}"]
    for channel in (0, 1):
        torch.testing.assert_close(found.weights[FIRST][:, channel], trained[:, 0] / 2)


def test_a_label_with_another_name_is_known_by_a_phrase(hashed_bank):
    old, new = hashed_bank("box", "ball", ball=("round thing",)), hashed_bank("cube", "Kugel", Kugel=("round thing",))
    assert shared_labels(old, new) == {"Kugel": ((2, 1), (2, 1))}


def test_each_convolution_of_the_image_is_fitted_to_the_channels(shapes_plan):
    def plan(*names):
        channels = tuple(ChannelPlan(name=name, scheme="zscore") for name in names)
        overview = OverviewPlan(edge=8, widths=(8, 8))
        return shapes_plan("unet").model_copy(update={"channels": channels, "overview": overview})

    theirs, ours = plan("CT", "MRI"), plan("MRI", "PET", "CT")
    assert [build_model(ours).state_dict()[name].shape[1] for name in initial.FIRST] == [3, 3]
    weight = torch.randn(8, 2, 3, 3, 3)
    expected = torch.stack([weight[:, 1], weight.mean(1), weight[:, 0]], 1) * 2 / 3
    torch.testing.assert_close(initial.of_channels(weight, theirs, ours), expected)


def test_another_network_or_encoder_is_refused(model, shapes_plan, tmp_path, hashed_bank):
    plan, bank = shapes_plan("unet"), hashed_bank("ball", "box")
    wider = tuple(stage.model_copy(update={"width": 24}) for stage in plan.stages)
    with pytest.raises(UserError, match="same place and shape"):
        start(model, plan.model_copy(update={"stages": wider}), bank)
    with pytest.raises(UserError, match="folder of a trained model"):
        start(tmp_path, plan, bank)


def test_training_starts_there_and_notes_it(model, preprocessed, tmp_path):
    notes, fold = [], FoldFolder(tmp_path / "fold_0")
    options = TrainingOptions(init_from=model)
    loop.train_fold(preprocessed, FOLD, fold, options, report=notes.append)
    assert any(note.startswith("Starts from") for note in notes)
    assert read_position(fold).initial == hash_weights(FoldFolder(model / "fold_0"), "best")
    plain = FoldFolder(tmp_path / "plain" / "fold_0")
    loop.train_fold(preprocessed, FOLD, plain, TrainingOptions())
    first, second = (read_tensors(one.checkpoint("latest")) for one in (fold, plain))
    assert not torch.equal(first[f"model.{FIRST}"], second[f"model.{FIRST}"])
    with pytest.raises(UserError, match="--restart"):
        loop.train_fold(preprocessed, FOLD, plain, options)
    loop.train_fold(preprocessed, FOLD, fold, options)


def test_a_run_that_started_elsewhere_and_a_folder_that_is_replaced_are_refused(model, preprocessed, tmp_path):
    other, fold = FoldFolder(tmp_path / "other" / "fold_0"), FoldFolder(tmp_path / "fold_0")
    loop.train_fold(preprocessed, FOLD, other, TrainingOptions(seed=1))
    loop.train_fold(preprocessed, FOLD, fold, TrainingOptions(init_from=model))
    with pytest.raises(UserError, match="was started from other weights"):
        loop.train_fold(preprocessed, FOLD, fold, TrainingOptions(init_from=other.path.parent))
    loop.train_fold(preprocessed, FOLD, fold, TrainingOptions(init_from=tmp_path / "gone"))
    for own in (fold.path, fold.path.parent):
        with pytest.raises(UserError, match="--restart replaces fold_0 there"):
            loop.train_fold(preprocessed, FOLD, fold, TrainingOptions(init_from=own, restart=True))
    assert fold.checkpoint("best").is_file()


def test_a_fold_that_was_trained_on_the_validation_cases_is_no_start(model, preprocessed, tmp_path):
    options = TrainingOptions(init_from=model)
    turned = Split(train=("b", "c"), validation=("a",))
    with pytest.raises(UserError, match=r"fold_0 was trained on 1 validation cases of fold 1 \(a\)"):
        loop.train_fold(preprocessed, turned, FoldFolder(tmp_path / "fold_1"), options)
    loop.train_fold(preprocessed, turned, FoldFolder(tmp_path / "fold_all"), options)


def test_a_package_of_the_same_data_set_without_cases_may_know_the_validation_cases(model, shapes_plan, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    (copy / "fold_0" / "cases.json").unlink()
    plan, bank = shapes_plan("unet"), TextBank.load(FoldFolder(model / "fold_0").words)

    def note(source, dataset, name="1"):
        cases = FoldCases.of(dataset, ("b",), ("a",))
        weights = build_model(plan).state_dict()
        return initial_weights(source, FoldFolder(tmp_path / f"fold_{name}"), cases, plan, bank, weights).note

    assert "the scores are too high" in note(copy, plan.dataset)
    for other in (note(copy, "Dataset001_Other"), note(copy, plan.dataset, "all")):
        assert "too high" not in other


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("Dataset004_A", "Dataset004_A", True),
        ("Dataset004_A", "Dataset004+101_A+B", True),
        ("Dataset101+7_B+C", "Dataset004+101_A+B", True),
        ("Dataset004_A", "Dataset101_B", False),
        ("Dataset004_A", "Dataset004_B", False),
        ("Mine", "Other", False),
        (None, "Dataset004_A", False),
    ],
)
def test_a_data_set_shares_cases_with_a_combination_of_it(one, other, shared):
    assert initial.share_data(one, other) is shared
