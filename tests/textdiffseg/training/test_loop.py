"""Training on a few generated stored cases: exact resume, stopping, and a fixed length in minutes."""

import gc
import json
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
from textdiffseg.data.splits import Fold
from textdiffseg.folds.progress import DENOISER_COST, TrainingProgress, read_progress
from textdiffseg.folds.weights import load_network, read_tensors
from textdiffseg.training import loop, run
from textdiffseg.training.log import read_log
from textdiffseg.training.optimise import learning_rate
from textdiffseg.training.run import TrainingOptions


@pytest.fixture(scope="module", params=["default", "unet"])
def preprocessed(request, tmp_path_factory, shapes_plan, store_shapes):
    return store_shapes(tmp_path_factory.mktemp("preprocessed"), shapes_plan(request.param))


FOLD = Fold(train=("a", "b"), validation=("c",))


WITHOUT_TIME = {"seconds": 0, "iteration_seconds": None, "data_seconds": None}


def fit(preprocessed, folder, **options):
    messages = []
    loop.fit(preprocessed, FOLD, FoldFolder(folder), TrainingOptions(**options), report=messages.append)
    return messages


@pytest.mark.parametrize("stop_at", [4, 6])
def test_a_resumed_run_gives_the_same_numbers_as_an_uninterrupted_one(
    preprocessed, tmp_path, monkeypatch, stop_at, interrupt_after
):
    fit(preprocessed, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, stop_at)
        with pytest.raises(KeyboardInterrupt):
            fit(preprocessed, tmp_path / "parts")
    assert read_progress(FoldFolder(tmp_path / "parts")).iteration == stop_at
    fit(preprocessed, tmp_path / "parts")
    whole, parts = (read_tensors(tmp_path / name / "checkpoint_latest.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts")]
    without_time = [[entry.model_copy(update=WITHOUT_TIME) for entry in log] for log in logs]
    assert without_time[0] == without_time[1]
    assert len(logs[0]) == 3


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
            fit(preprocessed, tmp_path)
    assert read_progress(FoldFolder(tmp_path)).iteration == 2
    assert fit(preprocessed, tmp_path)[-1].startswith("Resuming at iteration 2 of 12")


def test_what_ends_the_loading_is_raised_after_the_state_is_saved(preprocessed, tmp_path, monkeypatch):
    plain = TrainingLoader.epoch

    def cut_off(self, *args):
        for number, batch in enumerate(plain(self, *args)):
            if number == 3:
                raise UserError("A process that loads batches was killed.")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoader, "epoch", cut_off)
        with pytest.raises(UserError, match=r"^A process that loads batches was killed\.$"):
            fit(preprocessed, tmp_path / "parts")
    assert read_progress(FoldFolder(tmp_path / "parts")).iteration == 3
    fit(preprocessed, tmp_path / "parts")
    fit(preprocessed, tmp_path / "whole")
    whole, parts = (read_tensors(tmp_path / name / "checkpoint_latest.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_stopped_run_lets_go_of_its_loader_at_once(preprocessed, tmp_path, monkeypatch, interrupt_after):
    loaders, plain = [], loop.open_run

    def opened(*args):
        made = plain(*args)
        loaders.append(weakref.ref(made.loader))
        return made

    monkeypatch.setattr(loop, "open_run", opened)
    interrupt_after(monkeypatch, 3)
    gc.disable()
    try:
        with suppress(KeyboardInterrupt):
            fit(preprocessed, tmp_path)
        assert loaders[0]() is None
    finally:
        gc.enable()


def test_a_resumed_run_limited_by_minutes_compiles_before_its_clock_runs(
    preprocessed, tmp_path, monkeypatch, interrupt_after
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            fit(preprocessed, tmp_path, max_minutes=1)
    before = read_progress(FoldFolder(tmp_path)).seconds
    plain, calls, clock = run.train_step, [], [0.0]

    def slow_at_first(*args):
        calls.append(args)
        clock[0] += 1.0 if len(calls) > 1 else 1000.0
        return plain(*args)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(run, "train_step", slow_at_first)
    monkeypatch.setattr(loop, "train_step", slow_at_first)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        fit(preprocessed, tmp_path)
    assert len(calls) == 3
    assert read_progress(FoldFolder(tmp_path)).seconds - before == pytest.approx(2.0)


@pytest.mark.parametrize(("minutes", "epochs"), [(0.1, 7), (1, 20), (60, 20), (600, 120)])
def test_a_run_limited_by_minutes_validates_now_and_then(preprocessed, tmp_path, monkeypatch, minutes, epochs):
    timed(monkeypatch, step=0.03, validation=0.1)
    monkeypatch.setattr(TrainingLoader, "seconds_per_batch", lambda _: 0.04)
    options = TrainingOptions(max_minutes=minutes)
    opened = run.open_run(preprocessed, FOLD, FoldFolder(tmp_path), options, "default", print, None)
    length = run.plan_length(opened, options, print)
    masks = length.epochs if length.denoiser_epoch is None else length.denoiser_epoch
    whole = masks + DENOISER_COST * (length.epochs - masks)  # an epoch of the denoiser takes less time
    assert whole == pytest.approx(epochs, rel=0.06)
    an_epoch = length.iterations_per_epoch * 0.04 + 0.1
    assert epochs * an_epoch == pytest.approx(60 * minutes, rel=0.05)


@pytest.mark.parametrize(("step", "count"), [(0.03, 23), (26.0, 6)])
def test_a_slow_machine_times_fewer_iterations(preprocessed, tmp_path, monkeypatch, step, count):
    steps = timed(monkeypatch, step=step, validation=1.0)
    monkeypatch.setattr(TrainingLoader, "seconds_per_batch", lambda _: 0.0)
    options, messages = TrainingOptions(max_minutes=10), []
    opened = run.open_run(preprocessed, FOLD, FoldFolder(tmp_path), options, "default", lambda _: None, None)
    run.plan_length(opened, options, messages.append)
    assert len(steps) == count
    assert messages[-1].startswith(f"An iteration takes {step:.3g} s: ")


def test_minutes_that_are_too_few_are_refused_with_the_minutes_that_are_missing(preprocessed, tmp_path, monkeypatch):
    timed(monkeypatch, step=26.0, validation=30.0)
    options = TrainingOptions(max_minutes=1.51079)
    opened = run.open_run(preprocessed, FOLD, FoldFolder(tmp_path), options, "default", lambda _: None, None)
    line = r"^--max-minutes leaves 2 minutes to train: 7 iterations of 26 s .* do not fit\. Give 7 more minutes"
    with pytest.raises(UserError, match=line):
        run.plan_length(opened, options, print)


@pytest.mark.parametrize(
    ("total", "limit", "times"),
    [
        (5, 180.0, ["300 take about 3 hours"]),
        (99, 180.0, ["300 take about 9 minutes"]),
        (100, 180.0, []),
        (5, None, []),  # the user chose the number of epochs
    ],
)
def test_a_run_with_too_few_iterations_is_announced_as_such(total, limit, times):
    messages = []
    length = TrainingProgress(seed=0, epochs=1, iterations_per_epoch=total, limit_seconds=limit)
    run.report_few_iterations(length, messages.append)
    assert len(messages) == len(times)
    assert all(f"Note: {total} iterations" in line and time in line for line, time in zip(messages, times, strict=True))


def test_the_first_event_of_a_training_comes_before_its_first_iteration(preprocessed, tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(loop, "train_step", lambda *_: pytest.fail(str(events[0].done)))
    with pytest.raises(pytest.fail.Exception, match=r"^0$"):
        loop.fit(preprocessed, FOLD, FoldFolder(tmp_path), TrainingOptions(epochs=1), progress=events.append)


def test_a_loss_that_some_iterations_lack_is_summed_over_the_others():
    read = ({"estimate": 1.0, "latent": 2.0}, {"estimate": 3.0})
    steps = [SimpleNamespace(read=lambda one=one: one) for one in read]
    assert loop._summed({"reconstruction": 5.0}, steps) == {"reconstruction": 5.0, "estimate": 4.0, "latent": 2.0}


def timed(monkeypatch, step, validation):
    """A clock that only iterations and validations move, by so many seconds; returns a list of the iterations."""
    clock, steps, plain, validate = [0.0], [], run.train_step, run.validate_patches

    def slow_step(*args):
        clock[0] += step
        steps.append(args)
        return plain(*args)

    def slow_validation(*args):
        clock[0] += validation
        return validate(*args)

    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(run, "train_step", slow_step)
    monkeypatch.setattr(run, "validate_patches", slow_validation)
    return steps


def test_training_learns_and_leaves_a_fold_that_stands_alone(preprocessed, tmp_path):
    messages = fit(preprocessed, tmp_path, epochs=25)
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


def test_minutes_fix_a_limit_that_a_resume_keeps(preprocessed, tmp_path, monkeypatch, interrupt_after):
    interrupt_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        fit(preprocessed, tmp_path, max_minutes=1)
    before = read_progress(FoldFolder(tmp_path))
    assert before.total != 12
    with pytest.raises(UserError, match=f"started with --max-minutes 1, not --epochs {before.epochs}"):
        fit(preprocessed, tmp_path, epochs=before.epochs)
    with pytest.raises(UserError, match=r"started with --max-minutes 1, not --max-minutes 5, and is not finished"):
        fit(preprocessed, tmp_path, max_minutes=5)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        fit(preprocessed, tmp_path, max_minutes=1)
    after = read_progress(FoldFolder(tmp_path))
    assert (after.limit_seconds, after.iteration) == (60, before.iteration + 2)


def test_a_run_limited_by_minutes_becomes_shorter_or_longer_with_the_machine_s_pace():
    progress = TrainingProgress(seed=0, epochs=10, iterations_per_epoch=50, iteration=200, seconds=100.0)
    assert progress.in_time() == progress, "no limit"
    assert progress.after(limit_seconds=250.0).in_time().epochs == 10, "the pace expected"
    assert progress.after(limit_seconds=180.0).in_time().epochs == 7
    assert progress.after(limit_seconds=300.0).in_time().epochs == 12
    assert progress.after(limit_seconds=80.0).in_time().epochs == 5, "one more, that takes the learning rate to 0"
    for last in (4, 5):
        ending = progress.after(epochs=last, limit_seconds=300.0)
        assert ending.in_time() == ending, "the rate has come down for this end"


def test_writing_an_epoch_down_counts_as_time(preprocessed, tmp_path, monkeypatch):
    plain = loop.draw_progress

    def slowly(*args):
        time.sleep(0.5)
        plain(*args)

    monkeypatch.setattr(loop, "draw_progress", slowly)
    fit(preprocessed, tmp_path, epochs=3)
    first, _, last = read_log(tmp_path / "log.jsonl")
    assert last.seconds - first.seconds >= 1


def test_a_run_that_is_out_of_time_ends_with_the_epoch(preprocessed, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "plan_length", lambda *_: TrainingProgress(seed=0, epochs=5, iterations_per_epoch=4))
    monkeypatch.setattr(TrainingProgress, "in_time", lambda self: self.after(epochs=max(2, self.epoch)))
    fit(preprocessed, tmp_path)
    assert (read_progress(FoldFolder(tmp_path)).iteration, len(read_log(tmp_path / "log.jsonl"))) == (8, 2)
    assert read_progress(FoldFolder(tmp_path)).finished


def test_a_loss_that_is_not_finite_stops_the_run_before_anything_is_saved(preprocessed, tmp_path, monkeypatch):
    plain = loop.train_step

    def step(state, *rest):
        if state.progress.iteration == 5:
            next(state.model.parameters()).data.fill_(torch.nan)
        return plain(state, *rest)

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(UserError, match=r"not finite at iteration 5 .*, cases [ab], [ab]\. Lower .*--restart\.$"):
        fit(preprocessed, tmp_path)
    tensors = read_tensors(tmp_path / "checkpoint_latest.safetensors")
    assert read_progress(FoldFolder(tmp_path)).iteration == 4, "the end of the epoch before"
    assert all(value.isfinite().all() for value in tensors.values())


def test_too_few_minutes_and_a_foreign_checkpoint_are_refused(preprocessed, tmp_path):
    with pytest.raises(UserError, match="--max-minutes"):
        fit(preprocessed, tmp_path, max_minutes=1e-4)
    fit(preprocessed, tmp_path, epochs=1)
    path = tmp_path / "checkpoint_latest.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        fit(preprocessed, tmp_path)
    fit(preprocessed, tmp_path, epochs=1, restart=True)
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
            time.sleep(0.1)
            yield batch

    monkeypatch.setattr(TrainingLoader, "epoch", slow)
    options = TrainingOptions()
    loop.fit(preprocessed, FOLD, FoldFolder(tmp_path), options, progress=lambda event: details.append(event.detail))
    for entry in read_log(tmp_path / "log.jsonl"):
        assert 0.1 <= entry.data_seconds < entry.iteration_seconds
    assert all("s/it" in detail and "% wait for data" in detail for detail in details[-3:])
