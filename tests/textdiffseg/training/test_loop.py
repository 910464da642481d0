"""Training on a few generated stored cases: exact resume, stopping, and the files of a fold."""

import gc
import json
import shutil
import signal
import time
import weakref
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.data.loader import TrainingLoader
from textdiffseg.data.splits import Split
from textdiffseg.folds.position import read_position
from textdiffseg.folds.weights import load_network, read_tensors
from textdiffseg.training import loop
from textdiffseg.training.log import read_log
from textdiffseg.training.optimise import learning_rate
from textdiffseg.training.options import TrainingOptions

FOLD = Split(train=("a", "b"), validation=("c",))
WITHOUT_TIME = {"seconds": 0, "iteration_seconds": None, "data_seconds": None}


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory, shapes_plan, store_shapes):
    """Stored cases of preset `unet`, which has one stage. `test_stages.py` stops and resumes runs of two stages."""
    plan = shapes_plan("unet").model_copy(update={"patch": (8, 8, 8)})
    return store_shapes(tmp_path_factory.mktemp("preprocessed"), plan)


def train_fold(preprocessed, folder, **options):
    messages = []
    loop.train_fold(preprocessed, FOLD, FoldFolder(folder), TrainingOptions(**options), report=messages.append)
    return messages


@pytest.fixture(scope="module")
def whole(preprocessed, tmp_path_factory):
    """The fold of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train_fold(preprocessed, folder)
    return folder


@pytest.mark.parametrize("stop_at", [4, 6])
def test_a_resumed_run_gives_the_same_numbers_as_an_uninterrupted_one(
    preprocessed, whole, tmp_path, monkeypatch, stop_at, interrupt_after
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, stop_at)
        with pytest.raises(KeyboardInterrupt):
            train_fold(preprocessed, tmp_path)
    assert read_position(FoldFolder(tmp_path)).iteration == stop_at
    train_fold(preprocessed, tmp_path)
    assert_same_weights(whole, tmp_path)
    logs = [read_log(folder / "log.jsonl") for folder in (whole, tmp_path)]
    without_time = [[entry.model_copy(update=WITHOUT_TIME) for entry in log] for log in logs]
    assert without_time[0] == without_time[1]
    assert len(logs[0]) == 3


def assert_same_weights(*folders):
    """The latest checkpoints of two folds are equal, bit by bit."""
    left, right = (read_tensors(folder / "checkpoint_latest.safetensors") for folder in folders)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_a_stop_that_also_ends_the_loading_processes_saves_what_there_is(preprocessed, tmp_path, monkeypatch):
    plain = TrainingLoader.epoch

    def cut_off(self, *args):
        for number, batch in enumerate(plain(self, *args)):
            if number == 2:
                signal.raise_signal(signal.SIGTERM)
                raise UserError("A process that loads batches was killed.")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoader, "epoch", cut_off)
        with pytest.raises(SystemExit):
            train_fold(preprocessed, tmp_path)
    assert read_position(FoldFolder(tmp_path)).iteration == 2
    assert train_fold(preprocessed, tmp_path)[-1].startswith("Resuming at iteration 2 of 12")


def test_what_ends_the_loading_is_raised_after_the_state_is_saved(preprocessed, whole, tmp_path, monkeypatch):
    plain = TrainingLoader.epoch

    def cut_off(self, *args):
        for number, batch in enumerate(plain(self, *args)):
            if number == 3:
                raise UserError("A process that loads batches was killed.")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoader, "epoch", cut_off)
        with pytest.raises(UserError, match=r"^A process that loads batches was killed\.$"):
            train_fold(preprocessed, tmp_path)
    assert read_position(FoldFolder(tmp_path)).iteration == 3
    train_fold(preprocessed, tmp_path)
    assert_same_weights(whole, tmp_path)


class Broken(BaseException):
    """An error that is not an `Exception`."""


def failing(iteration, error):
    """A callback that raises an error at the event of an iteration."""

    def follow(event):
        if event.done == iteration:
            raise error

    return follow


@pytest.mark.parametrize("error", [ValueError("a bar"), KeyboardInterrupt(), Broken()])
@pytest.mark.parametrize("fails_at", [4, 6])
def test_an_error_in_the_progress_callback_leaves_after_the_state_is_saved(
    preprocessed, whole, tmp_path, error, fails_at
):
    """Iteration 4 is the last of an epoch."""
    fold = FoldFolder(tmp_path)
    with pytest.raises(type(error)) as raised:
        loop.train_fold(preprocessed, FOLD, fold, TrainingOptions(), progress=failing(fails_at, error))
    assert raised.value is error
    assert read_position(fold).iteration == fails_at
    assert train_fold(preprocessed, tmp_path)[-1].startswith(f"Resuming at iteration {fails_at} of 12")
    assert_same_weights(whole, tmp_path)


def test_an_error_in_cancel_or_report_leaves_after_the_state_is_saved(preprocessed, tmp_path, monkeypatch):
    error, events = ValueError("no answer"), []

    def cancel():
        if len(events) == 3:  # the first event comes before the first iteration
            raise error
        return False

    fold = FoldFolder(tmp_path)
    with pytest.raises(ValueError, match="no answer") as raised:
        loop.train_fold(preprocessed, FOLD, fold, TrainingOptions(), progress=events.append, cancel=cancel)
    assert raised.value is error
    assert read_position(fold).iteration == 2

    def update(self, position):
        self._report("The training takes 3 hours.")

    def report(line):
        if line.startswith("The training takes"):
            raise error

    monkeypatch.setattr(loop.TrainingForecast, "update", update)
    monkeypatch.setattr(loop.TrainingForecast, "__init__", lambda self, report: setattr(self, "_report", report))
    with pytest.raises(ValueError, match="no answer"):
        loop.train_fold(preprocessed, FOLD, fold, TrainingOptions(), report=report)
    assert read_position(fold).iteration == 4


def test_an_error_before_the_first_iteration_of_a_restart_keeps_the_old_fold(preprocessed, whole, tmp_path):
    fold = FoldFolder(shutil.copytree(whole, tmp_path / "fold_0"))
    with pytest.raises(ValueError, match="a bar"):
        loop.train_fold(
            preprocessed, FOLD, fold, TrainingOptions(restart=True), progress=failing(0, ValueError("a bar"))
        )
    assert_same_weights(whole, fold.path)


def test_a_stopped_run_lets_go_of_its_loader_at_once(preprocessed, tmp_path, monkeypatch, interrupt_after):
    loaders, plain = [], loop.set_up_fold

    def opened(*args):
        made = plain(*args)
        loaders.append(weakref.ref(made.loader))
        return made

    monkeypatch.setattr(loop, "set_up_fold", opened)
    interrupt_after(monkeypatch, 3)

    def follow(event):
        if event.done == 5:
            raise ValueError("a bar")  # a new error, which nothing else keeps

    gc.disable()
    try:
        with suppress(KeyboardInterrupt):
            train_fold(preprocessed, tmp_path)
        assert loaders[0]() is None
        with suppress(ValueError):
            loop.train_fold(preprocessed, FOLD, FoldFolder(tmp_path), TrainingOptions(), progress=follow)
        assert loaders[1]() is None
    finally:
        gc.enable()


def test_the_first_event_of_a_training_comes_before_its_first_iteration(preprocessed, tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(loop, "train_step", lambda *_: pytest.fail(str(events[0].done)))
    with pytest.raises(pytest.fail.Exception, match=r"^0$"):
        loop.train_fold(preprocessed, FOLD, FoldFolder(tmp_path), TrainingOptions(epochs=1), progress=events.append)


def test_a_resumed_run_shows_the_loss_of_an_uninterrupted_one(preprocessed, tmp_path, monkeypatch, interrupt_after):
    monkeypatch.setattr(loop, "READ_EVERY", 2)
    shown = {"whole": {}, "resumed": {}}

    def train(name):
        def follow(event):
            shown[name][event.done] = event.detail.split(",")[0]

        loop.train_fold(preprocessed, FOLD, FoldFolder(tmp_path / name), TrainingOptions(), progress=follow)

    train("whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train("resumed")
    train("resumed")
    assert shown["whole"][7].startswith("loss=")
    assert shown["resumed"][7] == shown["whole"][7]


def test_a_loss_that_some_iterations_lack_is_summed_over_the_others():
    read = ({"estimate": 1.0, "latent": 2.0}, {"estimate": 3.0})
    steps = [SimpleNamespace(read=lambda one=one: one) for one in read]
    assert loop._summed({"reconstruction": 5.0}, steps) == {"reconstruction": 5.0, "estimate": 4.0, "latent": 2.0}


@pytest.mark.parametrize("preset", ["default", "unet"])
def test_training_learns_and_leaves_a_fold_that_stands_alone(
    shapes_plan, store_shapes, tmp_path_factory, tmp_path, preset
):
    preprocessed = store_shapes(tmp_path_factory.mktemp("preprocessed"), shapes_plan(preset))
    messages = train_fold(preprocessed, tmp_path, epochs=25)
    log = read_log(tmp_path / "log.jsonl")
    of_masks = [entry.losses["estimate"] for entry in log if "estimate" in entry.losses]
    assert of_masks[-1] < 0.6 * of_masks[0]
    assert log[-1].mean_dice > log[0].mean_dice + 0.2
    assert "A training step takes" in messages[0]
    diffusion = Plan.read(tmp_path / "plan.json").diffusion
    assert bool(log[-1].latent_dice) == (diffusion is not None)
    words = ("text_bank.safetensors", "text_space.safetensors")
    for name in ("plan.json", *words, "checkpoint_best.safetensors", "progress.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert all((tmp_path / name).read_bytes() == (preprocessed / name).read_bytes() for name in words)
    averaged = load_network(FoldFolder(tmp_path), "latest").state_dict()
    latest = read_tensors(tmp_path / "checkpoint_latest.safetensors")
    assert all(torch.equal(averaged[name], latest["ema." + name]) for name in averaged)


@pytest.mark.parametrize("what", ["weight", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_before_anything_is_saved(
    preprocessed, tmp_path, monkeypatch, what
):
    plain = loop.train_step

    def step(state, *rest):
        if state.position.iteration == 5:
            first = next(state.model.parameters())
            if what == "weight":
                first.data.fill_(torch.nan)
            else:
                first.register_hook(lambda gradient: gradient * torch.inf)
        return plain(state, *rest)

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(UserError, match=r"not finite at iteration 5 .*, cases [ab], [ab]\. Lower .*--restart\.$"):
        train_fold(preprocessed, tmp_path)
    tensors = read_tensors(tmp_path / "checkpoint_latest.safetensors")
    assert read_position(FoldFolder(tmp_path)).iteration == 4, "the end of the epoch before"
    assert all(value.isfinite().all() for value in tensors.values())


def test_too_few_minutes_and_a_foreign_checkpoint_are_refused(preprocessed, tmp_path):
    with pytest.raises(UserError, match="--max-minutes"):
        train_fold(preprocessed, tmp_path, max_minutes=1e-4)
    train_fold(preprocessed, tmp_path, epochs=1)
    path = tmp_path / "checkpoint_latest.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        train_fold(preprocessed, tmp_path)
    train_fold(preprocessed, tmp_path, epochs=1, restart=True)
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["stages"][0]["width"] = 16
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match="does not fit"):
        load_network(FoldFolder(tmp_path), "latest")


def test_learning_rate_rises_then_falls_to_zero(shapes_plan):
    plan = shapes_plan("default").training
    rates = [learning_rate(plan, i, 100) for i in range(100)]
    peak = rates.index(max(rates))
    assert peak in (9, 10)
    assert max(rates) == pytest.approx(plan.learning_rate)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] < 0.01 * plan.learning_rate


def test_the_wait_for_data_is_in_the_log_and_beside_the_iteration_time(preprocessed, tmp_path, monkeypatch):
    plain, details = TrainingLoader.epoch, []

    def slow(self, *args):
        for batch in plain(self, *args):
            time.sleep(0.02)
            yield batch

    monkeypatch.setattr(TrainingLoader, "epoch", slow)
    options = TrainingOptions()
    loop.train_fold(
        preprocessed, FOLD, FoldFolder(tmp_path), options, progress=lambda event: details.append(event.detail)
    )
    for entry in read_log(tmp_path / "log.jsonl"):
        assert 0.02 <= entry.data_seconds < entry.iteration_seconds
    assert all("s/it" in detail and "% wait for data" in detail for detail in details[-3:])
