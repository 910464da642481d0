"""A trained fold is kept, trained longer, or restarted. All folds of a plan have one patch."""

import shutil
import signal
from contextlib import suppress

import pytest
import torch

from plans.errors import UserError
from plans.layout import FoldFolder, PreprocessedFolder
from plans.planning.memory import GB
from plans.planning.scan_memory import case_ram_bytes
from textdiffseg.data.splits import Split
from textdiffseg.data.store import list_cases, read_record
from textdiffseg.files import write_atomically, write_record
from textdiffseg.folds import replacing
from textdiffseg.folds.position import TrainingPosition, read_position
from textdiffseg.folds.weights import read_tensors
from textdiffseg.training import dry_run, loop
from textdiffseg.training.length import follow_pace, with_new_end
from textdiffseg.training.log import read_log
from textdiffseg.training.options import TrainingOptions

FOLD = Split(train=("a", "b"), validation=("c",))


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory, shapes_plan, store_shapes):
    return store_shapes(
        tmp_path_factory.mktemp("preprocessed"), shapes_plan("unet").model_copy(update={"preset": "default"})
    )


@pytest.fixture(scope="module")
def trained(preprocessed, tmp_path_factory):
    """A fold of two epochs; tests copy it."""
    folder = tmp_path_factory.mktemp("trained") / "fold_0"
    train_fold(preprocessed, folder, epochs=2)
    return folder


@pytest.fixture
def fold(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "fold_0")
    return FoldFolder(tmp_path / "fold_0")


def train_fold(preprocessed, folder, **options):
    messages = []
    loop.train_fold(preprocessed, FOLD, FoldFolder(folder), TrainingOptions(**options), report=messages.append)
    return messages


def refuse_work(monkeypatch):
    """Any preparation for a training step fails the test."""
    monkeypatch.setattr(loop, "set_up_fold", lambda *_: pytest.fail("a finished fold was opened for training"))


def contents(fold):
    return {path.name: path.read_bytes() for path in sorted(fold.path.iterdir())}


@pytest.mark.parametrize("options", [{}, {"epochs": 2}, {"seed": 0}])
def test_a_finished_fold_is_left_as_it_is(preprocessed, fold, monkeypatch, options):
    refuse_work(monkeypatch)
    before = contents(fold)
    train_fold(preprocessed, fold.path, **options)
    assert contents(fold) == before


def test_the_end_is_noted_in_both_checkpoints(fold):
    assert [read_position(fold, which).finished for which in ("latest", "best")] == [True, True]


def test_a_best_checkpoint_of_an_earlier_epoch_notes_the_end_and_keeps_its_weights(preprocessed, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.EpochLog, "mean_dice", property(lambda log: (0.9, 0.1)[log.epoch]))
    written = []
    plain = loop.complete_best
    monkeypatch.setattr(
        loop, "complete_best", lambda fold, report: written.append(contents(fold)) or plain(fold, report)
    )
    fold = FoldFolder(tmp_path / "fold_0")
    train_fold(preprocessed, fold.path, epochs=2)
    best = read_position(fold, "best")
    assert (best.iteration, best.ended, best.cases) == (4, True, read_position(fold).cases)
    ended = read_tensors(fold.checkpoint("best"))
    write_atomically(tmp_path / "before.safetensors", written[0][fold.checkpoint("best").name])
    before = read_tensors(tmp_path / "before.safetensors")
    assert all(torch.equal(before[name], ended[name]) for name in before)


def test_more_epochs_train_a_finished_fold_longer_and_the_rate_warms_up_again(preprocessed, fold):
    first = read_position(fold)
    assert any(
        "Training longer: from iteration 8 to 20" in line for line in train_fold(preprocessed, fold.path, epochs=5)
    )
    after, log = read_position(fold), read_log(fold.log)
    assert (after.iteration, after.epoch, after.total, after.finished) == (20, 5, 20, True)
    assert [entry.epoch for entry in log] == [0, 1, 2, 3, 4]
    assert [entry.iteration for entry in log] == [4, 8, 12, 16, 20]
    rates = [entry.learning_rate for entry in log]
    assert rates[1] < rates[2], "the rate had come down, and is up again"
    assert rates[2] > rates[3] > rates[4]
    assert after.seconds > first.seconds
    assert train_fold(preprocessed, fold.path, epochs=5) == []


def test_an_interrupted_prolongation_resumes_to_the_same_numbers(preprocessed, fold, tmp_path, monkeypatch):
    whole = FoldFolder(shutil.copytree(fold.path, tmp_path / "whole"))
    train_fold(preprocessed, whole.path, epochs=4)
    plain, count = loop.train_step, 0

    def step(*args):
        nonlocal count
        count += 1
        if count == 6:
            signal.raise_signal(signal.SIGINT)
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        with pytest.raises(KeyboardInterrupt):
            train_fold(preprocessed, fold.path, epochs=4)
    assert (read_position(fold).iteration, read_position(fold).finished) == (14, False)
    assert "Resuming at iteration 14 of 16" in train_fold(preprocessed, fold.path)[-1]
    left, right = (read_tensors(one.checkpoint("latest")) for one in (whole, fold))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_more_minutes_train_a_finished_fold_longer_within_them(preprocessed, fold, monkeypatch):
    minutes = []

    def planned(run, options, report, progress):
        minutes.append(options.max_minutes)
        return TrainingPosition(seed=0, epochs=2, iterations_per_epoch=3)

    monkeypatch.setattr("textdiffseg.training.longer.first_position", planned)
    before = read_position(fold)
    train_fold(preprocessed, fold.path, max_minutes=60)
    after = read_position(fold)
    assert minutes == [pytest.approx(60 - before.seconds / 60)]
    assert (after.iteration, after.epochs, after.limit_seconds, after.start.iteration) == (14, 4, 3600, 8)
    assert [entry.iteration for entry in read_log(fold.log)] == [4, 8, 11, 14]
    train_fold(preprocessed, fold.path, max_minutes=60)
    assert len(minutes) == 1, "the same minutes: nothing is left to do"
    with pytest.raises(UserError, match=r"fold_0 is trained already, for \S+ minutes: --max-minutes 59 is not longer"):
        train_fold(preprocessed, fold.path, max_minutes=59)


def test_a_prolongation_keeps_to_its_minutes_at_the_pace_since_its_start():
    before = TrainingPosition(seed=0, epochs=2, iterations_per_epoch=4, iteration=8, seconds=100.0)
    longer = with_new_end(before, epochs=12, iterations_per_epoch=10, limit_seconds=200.0)
    assert (longer.total, longer.epoch, longer.in_epoch, longer.schedule) == (108, 2, 0, (0, 100))
    later = longer.after(iteration=28, seconds=140.0)
    assert (later.epoch, later.schedule) == (4, (20, 100))
    assert follow_pace(later).epochs == 2 + 5, "two epochs in 40 s: five in the 100 s that are left"


def test_less_than_what_was_done_is_refused(preprocessed, fold):
    with pytest.raises(
        UserError, match=r"fold_0 is trained already, for 2 epochs: --epochs 1 is not longer.*--restart"
    ):
        train_fold(preprocessed, fold.path, epochs=1)
    with pytest.raises(UserError, match=r"--max-minutes 0\.0001 is not longer"):
        train_fold(preprocessed, fold.path, max_minutes=1e-4)
    with pytest.raises(UserError, match="--seed 0, not --seed 3"):
        train_fold(preprocessed, fold.path, epochs=9, seed=3)


def test_a_prolongation_queries_subsets_from_its_start():
    fresh = TrainingPosition(seed=0, epochs=10, iterations_per_epoch=10)
    assert loop._subsets_from(fresh) == 50
    assert loop._subsets_from(fresh.after(iteration=43)) == 10
    assert loop._subsets_from(with_new_end(fresh.after(iteration=100), epochs=40)) == 0


def test_a_missing_best_checkpoint_is_made_of_the_latest_one(preprocessed, fold, monkeypatch):
    refuse_work(monkeypatch)
    fold.checkpoint("best").unlink()
    assert "checkpoint_best.safetensors is missing" in train_fold(preprocessed, fold.path)[0]
    latest, best = (read_tensors(fold.checkpoint(which)) for which in ("latest", "best"))
    assert all(torch.equal(latest[name], value) for name, value in best.items())
    assert {name for name in latest if name.startswith("ema.")} == best.keys()
    assert read_position(fold, "best").finished


def test_an_older_fold_is_trained_longer(preprocessed, fold):
    """A checkpoint of version 1 has neither start nor cases."""
    from safetensors.torch import load_file, save_file

    for which in ("latest", "best"):
        path = fold.checkpoint(which)
        old = '{"version": 1, "seed": 0, "epochs": 2, "iterations_per_epoch": 4, "iteration": 8, "seconds": 3.0}'
        save_file(load_file(path), path, metadata={"progress": old})
    best = fold.checkpoint("best").read_bytes()
    train_fold(preprocessed, fold.path)
    assert fold.checkpoint("best").read_bytes() == best
    train_fold(preprocessed, fold.path, epochs=3)
    assert read_position(fold).cases is not None


def test_a_restart_keeps_the_old_fold_until_its_first_checkpoint(preprocessed, fold, monkeypatch):
    before, seen = contents(fold), []
    step = loop.train_step
    monkeypatch.setattr(
        loop, "train_step", lambda *args: seen.append(contents(FoldFolder(fold.replaced))) or step(*args)
    )
    train_fold(preprocessed, fold.path, epochs=1, restart=True)
    assert seen == [before] * 4
    assert not fold.replaced.exists()
    assert read_position(fold).iteration == 4


@pytest.mark.parametrize("error", [UserError("no"), KeyboardInterrupt(), RuntimeError("a bug")])
def test_a_restart_that_fails_before_puts_the_old_fold_back(preprocessed, fold, monkeypatch, error):
    before = contents(fold)

    def fail(*_):
        assert not fold.checkpoint("latest").exists()
        raise error

    monkeypatch.setattr(loop, "first_position", fail)
    with pytest.raises(type(error)):
        train_fold(preprocessed, fold.path, epochs=1, restart=True)
    assert contents(fold) == before
    assert not fold.replaced.exists()


def test_a_restart_that_was_killed_is_undone_or_completed(fold, tmp_path):
    before, lines = contents(fold), []
    fold.path.rename(fold.replaced)
    fold.path.mkdir()
    (fold.path / "plan.json").write_text("{}")
    replacing.put_back(fold, lines.append)
    assert contents(fold) == before
    assert "as it was before --restart" in lines[0]
    shutil.copytree(fold.path, fold.replaced)
    replacing.put_back(fold, lines.append)
    assert not fold.replaced.exists()
    assert contents(fold) == before


def test_a_fold_that_cannot_be_replaced_is_refused_unchanged(preprocessed, fold, tmp_path, monkeypatch):
    before = contents(fold)
    link = FoldFolder(tmp_path / "fold_1")
    link.path.symlink_to(fold.path)
    with pytest.raises(UserError, match=r"fold_1 is a link to .*fold_0"):
        train_fold(preprocessed, link.path, restart=True)
    with monkeypatch.context() as patch:
        patch.setattr(replacing.os, "access", lambda path, _: path != fold.path)
        with pytest.raises(UserError, match=r"fold_0 cannot be written"):
            train_fold(preprocessed, fold.path, restart=True)
    with monkeypatch.context() as patch:
        patch.setattr(replacing.os.path, "ismount", lambda _: True)
        with pytest.raises(UserError, match="mount point"):
            train_fold(preprocessed, fold.path, restart=True)
    (tmp_path / "fold_2").write_text("")
    with pytest.raises(UserError, match="fold_2 is a file"):
        train_fold(preprocessed, tmp_path / "fold_2", restart=True)
    assert contents(fold) == before


def test_a_replaced_fold_that_cannot_be_deleted_is_reported(fold, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    shutil.copytree(fold.path, fold.replaced)
    monkeypatch.setattr(replacing.shutil, "rmtree", refuse)
    lines = []
    replacing.discard(fold, lines.append)
    assert "cannot be deleted: Permission denied" in lines[0]


def test_folds_of_a_plan_have_the_patch_that_was_fitted_first(preprocessed, tmp_path, monkeypatch):
    """DESIGN 4: the dry step's result is stored once per plan, not per fold."""
    source, device = PreprocessedFolder(shutil.copytree(preprocessed, tmp_path / "stored")), torch.device("cpu")
    source.fitted_plan("default").unlink(missing_ok=True)
    plan = dry_run.Plan.read(source.plan("default")).model_copy(update={"batch": 8})
    write_record(source.plan("default"), plan)
    measured = iter([6.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(dry_run, "measure", lambda *_: next(measured))
    lines = []
    first = dry_run.fitted_plan(source, "default", device, lines.append)
    assert first.batch < 8
    assert dry_run.fitted_plan(source, "default", device, lines.append) == first
    assert "as an earlier fold fitted it" in lines[1]
    monkeypatch.setattr(dry_run, "free_memory", lambda: 2.5e9)
    with pytest.raises(UserError, match=r"fitted_plan.json: a training step .* takes 3.00 GB, and 2.50 GB are free"):
        dry_run.fitted_plan(source, "default", device, lines.append)
    write_record(source.plan("default"), plan.model_copy(update={"batch": 7}))
    monkeypatch.setattr(dry_run, "measure", lambda *_: 0.5)
    assert dry_run.fitted_plan(source, "default", device, lines.append).batch == 7, "another plan"
    source.fitted_plan("default").write_text("{")
    with pytest.raises(UserError, match=r"fitted_plan.json.* Delete the file"):
        dry_run.fitted_plan(source, "default", device, lines.append)


def test_the_host_memory_follows_the_patch_that_was_fitted(preprocessed, tmp_path, monkeypatch):
    """The sums over windows hold one patch along D. With a larger patch, a case takes more host memory."""
    source = PreprocessedFolder(shutil.copytree(preprocessed, tmp_path / "stored"))
    source.fitted_plan("default").unlink(missing_ok=True)
    plan = dry_run.Plan.read(source.plan("default"))
    shapes = [
        (one.shape, one.original_shape)
        for one in (read_record(source.path, case).transform for case in list_cases(source.path))
    ]
    longer = (plan.patch[0] + plan.total_stride[0], *plan.patch[1:])
    monkeypatch.setattr(
        dry_run, "fit_to_memory", lambda plan, device: (plan.model_copy(update={"patch": longer}), "grown")
    )
    fitted = dry_run.fitted_plan(source, "default", torch.device("cpu"), str)
    per_case = [case_ram_bytes(len(plan.channels), len(plan.labels), longer, *of_case) for of_case in shapes]
    assert fitted.memory.ram_gb == max(per_case) / GB
    assert fitted.memory.disk_gb == plan.memory.disk_gb


def test_folds_that_start_at_once_fit_one_after_the_other(preprocessed, tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    source = PreprocessedFolder(shutil.copytree(preprocessed, tmp_path / "stored"))
    source.fitted_plan("default").unlink(missing_ok=True)
    running, most = 0, 0

    def fitting(plan, device):
        nonlocal running, most
        running += 1
        most = max(most, running)
        with suppress(Exception):
            torch.randn(1000, 1000) @ torch.randn(1000, 1000)
        running -= 1
        return plan.model_copy(update={"batch": plan.batch + running + 1}), "fitted"

    monkeypatch.setattr(dry_run, "fit_to_memory", fitting)
    with ThreadPoolExecutor(4) as pool:
        ways = [pool.submit(dry_run.fitted_plan, source, "default", torch.device("cpu"), str) for _ in range(4)]
        plans = [way.result() for way in ways]
    assert most == 1
    assert all(plan == plans[0] for plan in plans)
