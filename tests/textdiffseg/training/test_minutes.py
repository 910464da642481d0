"""The length of a run: in minutes, from timed iterations, and as the machine's pace changes it."""

from types import SimpleNamespace

import pytest

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.data.loader import TrainingLoader
from textdiffseg.data.splits import Split
from textdiffseg.folds.position import SAMPLER_COST, TrainingPosition, read_position
from textdiffseg.training import loop, setup
from textdiffseg.training.length import follow_pace
from textdiffseg.training.log import read_log
from textdiffseg.training.options import TrainingOptions

FOLD = Split(train=("a", "b"), validation=("c",))


@pytest.fixture(scope="module")
def store(tmp_path_factory, shapes_plan, store_shapes):
    """A function that stores cases with small patches for a preset, and returns their folder."""

    def of(preset):
        plan = shapes_plan(preset).model_copy(update={"patch": (8, 8, 8)})
        return store_shapes(tmp_path_factory.mktemp("preprocessed"), plan)

    return of


@pytest.fixture(scope="module")
def preprocessed(store):
    """Stored cases of preset `default`, whose runs have two stages."""
    return store("default")


@pytest.fixture(scope="module", params=["default", "unet"])
def opened(request, store, tmp_path_factory):
    """A new run of a preset."""
    fold = FoldFolder(tmp_path_factory.mktemp("opened"))
    return setup.set_up_fold(store(request.param), FOLD, fold, TrainingOptions(), "default", print, None)


def train_fold(preprocessed, folder, **options):
    messages = []
    loop.train_fold(preprocessed, FOLD, FoldFolder(folder), TrainingOptions(**options), report=messages.append)
    return messages


def timed(monkeypatch, step, validation):
    """A clock that only iterations and validations move, by so many seconds; returns a list of the iterations.

    Nothing is loaded or computed.
    """
    clock, steps = [0.0], []

    def slow_step(*args):
        clock[0] += step
        steps.append(args)
        return SimpleNamespace(read=dict)

    def slow_validation(*_):
        clock[0] += validation

    monkeypatch.setattr(setup, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(setup, "train_step", slow_step)
    monkeypatch.setattr(setup, "validate_patches", slow_validation)
    monkeypatch.setattr(TrainingLoader, "epoch", lambda _, number, iterations: iter(range(iterations)))
    return steps


def test_a_resumed_run_limited_by_minutes_compiles_before_its_clock_runs(
    preprocessed, tmp_path, monkeypatch, interrupt_after
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_fold(preprocessed, tmp_path, max_minutes=1)
    before = read_position(FoldFolder(tmp_path)).seconds
    plain, calls, clock = setup.train_step, [], [0.0]

    def slow_at_first(*args):
        calls.append(args)
        clock[0] += 1.0 if len(calls) > 1 else 1000.0
        return plain(*args)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(setup, "train_step", slow_at_first)
    monkeypatch.setattr(loop, "train_step", slow_at_first)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train_fold(preprocessed, tmp_path)
    assert len(calls) == 3
    assert read_position(FoldFolder(tmp_path)).seconds - before == pytest.approx(2.0)


@pytest.mark.parametrize(("minutes", "epochs"), [(0.1, 7), (1, 20), (60, 20), (600, 120)])
def test_a_run_limited_by_minutes_validates_now_and_then(opened, monkeypatch, minutes, epochs):
    timed(monkeypatch, step=0.03, validation=0.1)
    monkeypatch.setattr(TrainingLoader, "seconds_per_batch", lambda _: 0.04)
    position = setup.first_position(opened, TrainingOptions(max_minutes=minutes), print)
    masks = position.epochs if position.denoiser_epoch is None else position.denoiser_epoch
    assert masks == epochs
    of_masks = masks * (position.iterations_per_epoch * 0.04 + 0.1)
    of_sampler = SAMPLER_COST * 0.04 * (position.total - masks * position.iterations_per_epoch)
    assert of_masks + of_sampler == pytest.approx(60 * minutes, rel=0.05)
    assert of_sampler == pytest.approx(position.denoiser_share * 60 * minutes, rel=0.15)


@pytest.mark.parametrize(("step", "count"), [(0.03, 23), (26.0, 6)])
def test_a_slow_machine_times_fewer_iterations(opened, monkeypatch, step, count):
    steps, messages = timed(monkeypatch, step=step, validation=1.0), []
    monkeypatch.setattr(TrainingLoader, "seconds_per_batch", lambda _: 0.0)
    setup.first_position(opened, TrainingOptions(max_minutes=10), messages.append)
    assert len(steps) == count
    assert messages[-1].startswith(f"An iteration takes {step:.3g} s: ")


def test_minutes_that_are_too_few_are_refused_with_the_minutes_that_are_missing(opened, monkeypatch):
    timed(monkeypatch, step=26.0, validation=30.0)
    line = r"^--max-minutes leaves 2 minutes to train: 7 iterations of 26 s .* do not fit\. Give 7 more minutes"
    with pytest.raises(UserError, match=line):
        setup.first_position(opened, TrainingOptions(max_minutes=1.51079), print)


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
    position = TrainingPosition(seed=0, epochs=1, iterations_per_epoch=total, limit_seconds=limit)
    setup.report_few_iterations(position, messages.append)
    assert len(messages) == len(times)
    assert all(f"Note: {total} iterations" in line and time in line for line, time in zip(messages, times, strict=True))


def test_minutes_fix_a_limit_that_a_resume_keeps(preprocessed, tmp_path, monkeypatch, interrupt_after):
    interrupt_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train_fold(preprocessed, tmp_path, max_minutes=1)
    before = read_position(FoldFolder(tmp_path))
    assert before.total != 12
    with pytest.raises(UserError, match=f"started with --max-minutes 1, not --epochs {before.epochs}"):
        train_fold(preprocessed, tmp_path, epochs=before.epochs)
    with pytest.raises(UserError, match=r"started with --max-minutes 1, not --max-minutes 5, and is not finished"):
        train_fold(preprocessed, tmp_path, max_minutes=5)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train_fold(preprocessed, tmp_path, max_minutes=1)
    after = read_position(FoldFolder(tmp_path))
    assert (after.limit_seconds, after.iteration) == (60, before.iteration + 2)


def test_a_run_limited_by_minutes_becomes_shorter_or_longer_with_the_machine_s_pace():
    position = TrainingPosition(seed=0, epochs=10, iterations_per_epoch=50, iteration=200, seconds=100.0)
    assert follow_pace(position) == position, "no limit"
    assert follow_pace(position.after(limit_seconds=250.0)).epochs == 10, "the pace expected"
    assert follow_pace(position.after(limit_seconds=180.0)).epochs == 7
    assert follow_pace(position.after(limit_seconds=300.0)).epochs == 12
    assert follow_pace(position.after(limit_seconds=80.0)).epochs == 5, "one more, that takes the learning rate to 0"
    for last in (4, 5):
        ending = position.after(epochs=last, limit_seconds=300.0)
        assert follow_pace(ending) == ending, "the rate has come down for this end"


def test_writing_an_epoch_down_counts_as_time(preprocessed, tmp_path, monkeypatch):
    clock = [0.0]

    def slowly(*_):
        clock[0] += 500.0

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(loop, "draw_progress", slowly)
    train_fold(preprocessed, tmp_path, epochs=3)
    assert [entry.seconds for entry in read_log(tmp_path / "log.jsonl")] == [0.0, 500.0, 1000.0]


def test_a_run_that_is_out_of_time_ends_with_the_epoch(preprocessed, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "first_position", lambda *_: TrainingPosition(seed=0, epochs=5, iterations_per_epoch=4))
    monkeypatch.setattr(loop, "follow_pace", lambda position: position.after(epochs=max(2, position.epoch)))
    train_fold(preprocessed, tmp_path)
    assert (read_position(FoldFolder(tmp_path)).iteration, len(read_log(tmp_path / "log.jsonl"))) == (8, 2)
    assert read_position(FoldFolder(tmp_path)).finished
