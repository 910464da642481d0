"""Tracking: an epoch's numbers, a run that resumes, and an event file that TensorBoard reads."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from plans.layout import FoldFolder
from textdiffseg.data.splits import Split
from textdiffseg.training import loop
from textdiffseg.training.log import EpochLog, read_log, write_log
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.tracking import scalars, tracked


def epoch(number: int, **changes) -> EpochLog:
    fields = {"learning_rate": 0.1, "losses": {"estimate": 1 / 2**number}, "dice": {"a/b": 0.25 * number, "c": 1.0}}
    entry = EpochLog(epoch=number, iteration=10 * number + 10, latent_dice={}, seconds=60 + 60 * number, **fields)
    return entry.model_copy(update=changes)


def test_the_numbers_of_an_epoch():
    found = scalars(epoch(1, latent_dice={"c": 0.9}, iteration_seconds=2.0, data_seconds=0.5))
    assert found == {
        "mean_dice": 0.625,
        "learning_rate": 0.1,
        "loss/estimate": 0.5,
        "dice/a/b": 0.25,
        "dice/c": 1.0,
        "latent_dice/c": 0.9,
        "seconds/iteration": 2.0,
        "seconds/data": 0.5,
    }
    assert not any(name.startswith("seconds") for name in scalars(epoch(1))), "older logs have no times"


def test_an_event_file_is_read_back_and_a_resumed_run_has_no_point_twice(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fold, log = FoldFolder(tmp_path), [epoch(0), epoch(1)]
    with tracked(fold, "tensorboard", log) as add:
        add(epoch(2))
    (first,) = fold.event_files
    with tracked(fold, "tensorboard", log) as add:  # resumed after epoch 1
        add(epoch(2, dice={"a/b": 0.75, "c": 0.25}))
        add(epoch(3))
    (second,) = fold.event_files
    assert second != first
    found = accumulator.EventAccumulator(str(fold.events))
    found.Reload()
    points = found.Scalars("dice/a/b")
    assert [(point.step, point.value) for point in points] == [(10, 0), (20, 0.25), (30, 0.75), (40, 0.75)]
    assert [point.wall_time - points[0].wall_time for point in points] == pytest.approx([0, 60, 120, 180])
    assert [point.value for point in found.Scalars("mean_dice")] == [0.5, 0.625, 0.5, 0.875]
    assert [point.value for point in found.Scalars("loss/estimate")] == [1, 0.5, 0.25, 0.125]
    assert found.Scalars("learning_rate")[3].value == pytest.approx(0.1)


class Writer:
    """A `SummaryWriter` that keeps what it gets."""

    opened: ClassVar = []

    def __init__(self, folder):
        self.folder, self.steps, self.flushed, self.closed = folder, [], 0, False
        self.opened.append(self)

    def add_scalar(self, tag, value, step, seconds):
        self.steps += [step] if tag == "mean_dice" else []

    def flush(self):
        self.flushed += 1

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True


@pytest.fixture
def writers(monkeypatch):
    """The opened writers, the last one last."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(Writer, "opened", [])
    return Writer.opened


def test_training_tracks_each_epoch_once_it_is_saved(
    shapes_plan, store_shapes, tmp_path, monkeypatch, interrupt_after, writers
):
    plan = shapes_plan("unet")
    stored = store_shapes(
        tmp_path / "stored",
        plan.model_copy(update={"training": plan.training.model_copy(update={"iterations_per_epoch": 1})}),
    )
    fold, train_fold = FoldFolder(tmp_path / "fold"), loop.train_fold

    def train(track):
        options = TrainingOptions(epochs=3, device="cpu", workers=0, track=track)
        train_fold(stored, Split(train=("a", "b"), validation=("c",)), fold, options)

    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train("tensorboard")
    (first,) = writers
    assert (first.folder, first.steps, first.closed) == (fold.events, [1, 2], True)
    write_log(fold.log, [*read_log(fold.log)[:1], epoch(7)])  # an epoch behind the checkpoint does not count
    train("tensorboard")
    assert (writers[1].steps, writers[1].flushed, writers[1].closed) == ([1, 3], 2, True)
    train(None)
    assert len(writers) == 2
    train("tensorboard")
    assert writers[2].steps == [1, 3], "a finished run is tracked from its log"
