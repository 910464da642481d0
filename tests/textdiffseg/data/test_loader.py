import os
import signal
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from plans.errors import UserError
from textdiffseg.data.loader import TrainingLoader, workers_that_fit
from textdiffseg.data.samples import ValidationPatches


def same(first, second) -> bool:
    return (
        torch.equal(first.image, second.image)
        and torch.equal(first.labels, second.labels)
        and first.queries == second.queries
        and first.cases == second.cases
        and first.texts == second.texts
    )


@pytest.fixture
def make_loader(stored, make_plan):
    folder, ids = stored

    def make(workers=0, seed=0, case_ids=ids, **changes):
        return TrainingLoader(folder, case_ids, make_plan(**changes), (2, 1), seed, workers)

    return make


def test_batches_have_the_promised_shapes(make_loader):
    batch = next(make_loader().epoch(0, 1))
    assert batch.image.shape == (3, 1, 16, 16, 16)
    assert batch.image.dtype == torch.float32
    assert batch.labels.shape == (3, 16, 16, 16)
    assert batch.labels.dtype == torch.int16
    assert len(batch.queries) == len(batch.cases) == 3
    assert batch.image.is_contiguous()


def test_workers_change_nothing(make_loader):
    inline, two = make_loader(), make_loader(workers=2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for epoch in (0, 1):
        for first, second in zip(inline.epoch(epoch, 4), two.epoch(epoch, 4), strict=True):
            assert same(first, second)
    assert torch.equal(state, torch.get_rng_state())


def test_workers_do_not_run_a_script_without_a_guard_again(make_loader, tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()")
    main = ModuleType("__main__")
    main.__file__ = str(tmp_path / "script.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    loader = make_loader(workers=1)
    loader._loader.multiprocessing_context = "spawn"  # as on Windows and macOS
    assert len(list(loader.epoch(0, 1))) == 1
    assert not (tmp_path / "ran").exists()


def test_an_epoch_resumes_where_it_stopped(make_loader):
    loader = make_loader()
    whole = list(loader.epoch(3, 4))
    rest = list(make_loader().epoch(3, 4, start=2))
    assert len(rest) == 2
    assert all(same(*pair) for pair in zip(whole[2:], rest, strict=True))
    assert same(whole[1], loader.batch(3, 1))


def test_an_epoch_left_early_does_not_disturb_the_next(make_loader):
    loader = make_loader(workers=1)
    next(loader.epoch(0, 6))
    assert same(next(loader.epoch(1, 2)), make_loader().batch(1, 0))


def test_a_process_that_gets_sigterm_ends_without_an_error(make_loader):
    loader = make_loader(workers=1)
    batches = loader.epoch(0, 50)
    next(batches)
    (worker,) = loader._loader._iterator._workers
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(10)
    assert worker.exitcode == 0


def test_a_killed_process_is_one_line_and_no_signal_breaks_into_a_step(make_loader):
    """torch's own handler of SIGCHLD raises wherever the main thread is."""
    before, loader = signal.getsignal(signal.SIGCHLD), make_loader(workers=1)
    batches = loader.epoch(0, 500)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before
    (worker,) = loader._loader._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(10)
    with pytest.raises(UserError, match=r"process that loads batches was killed.*--workers 1: it resumes") as error:
        for _ in batches:
            pass
    assert len(error.value.lines) == 1


def test_a_process_killed_between_two_epochs_is_the_same_line(make_loader):
    loader = make_loader(workers=1)
    next(loader.epoch(0, 1))
    (worker,) = loader._loader._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(10)
    with pytest.raises(UserError, match="process that loads batches was killed"):
        next(loader.epoch(1, 1))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["nan", "label"])
def test_a_stored_case_with_values_that_none_has_is_one_line_that_names_it(
    make_plan, make_case, tmp_path, workers, fault
):
    labels = np.ones((18, 18, 18), np.int16)
    image = np.zeros((1, 18, 18, 18), np.float32)
    make_case(tmp_path, "fine", image, labels)
    if fault == "nan":
        image[:] = np.nan
    else:
        labels[:] = 77
    make_case(tmp_path, "spoiled", image, labels, annotated=(1, 2))
    fault_line = {"nan": "its image holds numbers that are not finite", "label": "its labels hold number 77"}[fault]
    loader = TrainingLoader(tmp_path, ["fine", "spoiled"], make_plan(batch=8), (2, 1), 0, workers)
    for use in (
        lambda: list(loader.epoch(0, 4)),
        lambda: loader.batch(0, 0),
        lambda: list(ValidationPatches(tmp_path, ["spoiled"], make_plan(), 0, 1)),
    ):
        with pytest.raises(UserError, match=f"stored case spoiled is damaged .{fault_line}.*Run tds_plan") as error:
            use()
        assert len(error.value.lines) == 1


def test_seed_epoch_and_iteration_each_change_the_batch(make_loader):
    loader = make_loader()
    first = loader.batch(0, 0)
    assert same(first, make_loader().batch(0, 0))
    assert not same(first, loader.batch(0, 1))
    assert not same(first, loader.batch(1, 0))
    assert not same(first, make_loader(seed=1).batch(0, 0))


def test_the_last_sample_of_each_batch_holds_foreground(make_loader):
    loader = make_loader(patch=(8, 8, 8))
    held = [loader.batch(0, i).labels.flatten(1).amax(1) > 0 for i in range(10)]
    assert all(bool(batch[-1]) for batch in held)
    assert not all(bool(sample) for batch in held for sample in batch)


def test_only_annotated_labels_are_queried_in_known_phrasings(make_loader):
    loader = make_loader()
    pairs = {pair for i in range(20) for query in loader.batch(0, i).queries for pair in query}
    assert pairs == {(1, 0), (1, 1), (2, 0)}


def test_an_error_names_the_case(make_loader):
    with pytest.raises(UserError) as error:
        next(make_loader(case_ids=["nobody"]).epoch(0, 1))
    assert all("nobody.json does not exist" in line for line in error.value.lines)


def test_as_many_processes_load_as_shared_memory_holds_batches_of(make_plan, tmp_path, monkeypatch):
    plan = make_plan(patch=(8, 8, 8), batch=2)
    batch = 2 * 8**3 * (4 * len(plan.channels) + 2)
    free = {"free": 2 * 3 * batch * 5}
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(**free))
    assert [workers_that_fit(plan, wanted, tmp_path) for wanted in (0, 4, 12)] == [0, 4, 5]
    free["free"] = batch
    assert workers_that_fit(plan, 12, tmp_path) == 0
    assert workers_that_fit(plan, 12, tmp_path / "nowhere") == 12


def test_texts_are_read_for_some_samples_in_training_and_for_all_in_validation(make_loader, stored, make_plan):
    batches = [make_loader().batch(0, i) for i in range(10)]
    texts = [(case, text) for batch in batches for case, text in zip(batch.cases, batch.texts, strict=True)]
    assert {text == case for case, text in texts} == {True, False}
    assert all(text in (case, None) for case, text in texts)
    folder, ids = stored
    assert all(batch.texts == batch.cases for batch in ValidationPatches(folder, ids, make_plan(), 0, 5))


def test_loading_processes_are_timed_and_load_afterwards(make_loader):
    inline, two = make_loader(), make_loader(workers=2)
    assert inline.seconds_per_batch() == 0
    assert two.seconds_per_batch() > 0
    assert same(next(inline.epoch(1, 1)), next(two.epoch(1, 1)))


def test_queries_are_subsets_from_the_given_batch_on(make_loader):
    batches = list(make_loader().epoch(0, 30, subsets_from=10))
    sizes = [[len(query) for query in batch.queries] for batch in batches]
    annotated = max(map(max, sizes))
    assert all(size == annotated for one in sizes[:10] for size in one)
    assert any(size < annotated for one in sizes[10:] for size in one)
    assert [key.subsets for batch in batches for key in batch.keys] == [False] * 30 + [True] * 60
    assert [key.index for batch in batches for key in batch.keys] == list(range(90))


def test_a_batch_of_loading_processes_takes_a_time_and_one_of_none_takes_none(make_loader):
    assert make_loader().seconds_per_batch() == 0
    assert 0 < make_loader(workers=1).seconds_per_batch() < 60


def test_more_workers_than_cores_give_no_warning_of_torch(make_loader, recwarn):
    make_loader(workers=500)
    assert not recwarn.list
