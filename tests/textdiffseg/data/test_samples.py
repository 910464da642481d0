"""Samples of stored cases: their patches, labels and queries."""

import numpy as np
import pytest
import torch

from textdiffseg.data import augment, store
from textdiffseg.data.augment import read_patch
from textdiffseg.data.batch import SampleKey
from textdiffseg.data.samples import TrainingSamples, ValidationPatches
from textdiffseg.data.sampling import draw_patch
from textdiffseg.data.store import open_case


def same(first, second) -> bool:
    return (
        torch.equal(first.image, second.image)
        and torch.equal(first.labels, second.labels)
        and first.queries == second.queries
        and first.cases == second.cases
        and first.texts == second.texts
    )


def test_patches_with_foreground_are_of_cases_that_have_some(make_plan, make_case, tmp_path):
    labels = np.zeros((12, 12, 12), np.int16)
    for index in range(6):
        make_case(tmp_path, f"empty_{index}", np.zeros((1, *labels.shape), np.float32), labels, annotated=(1, 2))
    labels[4:8, 4:8, 4:8] = 1
    make_case(tmp_path, "full", np.zeros((1, *labels.shape), np.float32), labels, annotated=(1, 2))
    cases = [f"empty_{index}" for index in range(6)] + ["full"]
    samples = TrainingSamples(tmp_path, cases, make_plan(patch=(8, 8, 8), batch=2), (2, 1), 0)
    drawn = [samples[SampleKey(0, index)] for index in range(28)]
    assert {sample.case for sample in drawn[1::2]} == {"full"}
    assert all((sample.labels > 0).any() for sample in drawn[1::2])
    assert sum(sample.case == "full" for sample in drawn[::2]) <= 4


def test_partly_annotated_and_partly_ignored_cases(make_plan, make_case, tmp_path):
    """Absent labels are queried, unknown labels never. Every patch holds a voxel that is not ignored."""
    labels = np.full((24, 24, 24), -1, np.int16)
    labels[:6, :6, :6] = 0
    labels[2:4, 2:4, 2:4] = 1
    image = np.zeros((1, *labels.shape), np.float32)
    make_case(tmp_path, "a", image, labels, annotated=(1,), absent=(2,))
    three = [{"name": name, "value": value} for value, name in enumerate("abc", 1)]
    plan = make_plan(patch=(8, 8, 8), labels=three, mirror_axes=())
    samples = TrainingSamples(tmp_path, ["a"], plan, (1, 1, 1), 0)
    drawn = [samples[SampleKey(0, index)] for index in range(30)]
    assert {label for sample in drawn for label, _ in sample.query} == {1, 2}
    unturned = [read_patch(image, labels, labels.shape, start, plan.patch)[1] for start in starts(tmp_path, plan)]
    assert all((patch >= 0).any() for patch in unturned)
    assert all(sample.labels.min() >= -1 for sample in drawn)
    for batch in ValidationPatches(tmp_path, ["a"], plan, 0, 6):
        assert (batch.labels.flatten(1).amax(1) >= 0).all()
        assert all(query == ((1, 0), (2, 0)) for query in batch.queries)
    make_case(tmp_path, "b", image, np.minimum(labels, 0), annotated=(1,))
    empty = open_case(tmp_path, "b")
    assert len(empty.centres(True))
    assert np.array_equal(empty.centres(True), empty.centres(False))  # without foreground any known voxel will do


def starts(folder, plan):
    stored = open_case(folder, "a")
    for index in range(30):
        yield draw_patch(np.random.default_rng(index), stored.record.shape, plan.patch, stored.centres(False))


def test_validation_patches_are_the_same_every_time_and_unaugmented(stored, make_plan):
    folder, ids = stored
    plan = make_plan(patch=(8, 8, 8), batch=2)
    patches = ValidationPatches(folder, ids, plan, 0, 5)
    batches = list(patches)
    assert [len(batch.cases) for batch in batches] == [2, 2, 1]
    assert all(same(*pair) for pair in zip(batches, patches, strict=True))
    assert {case for batch in batches for case in batch.cases} == set(ids)
    assert all(query == ((1, 0), (2, 0)) for batch in batches for query in batch.queries)
    assert all((batch.labels[-1] > 0).any() for batch in batches[:2])


def test_a_sample_is_a_patch_of_its_case(stored, make_plan):
    """Intensity apart, what comes out is what was stored: labels keep to the voxels that they name."""
    folder, ids = stored
    samples = TrainingSamples(folder, ids, make_plan(patch=(24, 24, 24), mirror_axes=()), (1, 1), 0)
    for index in range(12):
        sample = samples[SampleKey(0, index)]
        assert sample.image.shape[1:] == sample.labels.shape == (24, 24, 24)
        expected = {0, 1, 2} if sample.case != "case_4" else {0, 1}
        assert set(np.unique(sample.labels)) == expected


def test_a_sample_reads_three_arrays_and_a_record_is_parsed_once(make_plan, make_case, tmp_path, monkeypatch):
    """Also of a case with several references: a sample learns from one of them."""
    labels = np.zeros((20, 20, 20), np.int16)
    labels[4:8, 4:8, 4:8] = 1
    for case in ("a", "b"):
        make_case(tmp_path, case, np.zeros((1, *labels.shape), np.float32), [labels, 2 * labels, 0 * labels])
    opened, parsed = [], []
    open_plainly, parse_plainly = store.open_array, store.CaseRecord.read
    monkeypatch.setattr(store, "open_array", lambda path: opened.append(path.name) or open_plainly(path))
    read = lambda path, way_out: parsed.append(path.name) or parse_plainly(path, way_out)  # noqa: E731
    monkeypatch.setattr(store.CaseRecord, "read", read)
    samples = TrainingSamples(tmp_path, ["a", "b"], make_plan(patch=(8, 8, 8), batch=2), (1, 1), 0)
    for index in range(40):
        sample, files = samples[SampleKey(0, index)], {opened.pop(), opened.pop(), opened.pop()}
        assert opened == []
        labels_of = {f"{sample.case}.labels{place}.b2nd" for place in ("", "_2", "_3")}
        assert files - labels_of == {f"{sample.case}.image.b2nd", f"{sample.case}.foreground.b2nd"}
    assert sorted(parsed) == ["a.json", "b.json"]
    list(ValidationPatches(tmp_path, ["a", "b"], make_plan(patch=(8, 8, 8)), 0, 4))
    assert len(opened) == 4 * 3
    assert len(parsed) == 2


def test_samples_see_their_case_from_their_patch(stored, make_plan):
    """The overview is turned and mirrored as the patch is. A tenth of the samples goes without it."""
    folder, ids = stored
    plan = make_plan(patch=(8, 8, 8), overview={"edge": 8, "widths": (4, 8)})
    samples = TrainingSamples(folder, ids, plan, (1, 1), 0)
    drawn = [samples[SampleKey(0, index)] for index in range(300)]
    shapes = {(tuple(one.overview.image.shape), tuple(one.overview.offsets.shape)) for one in drawn}
    assert shapes == {((1, 1, 8, 8, 8), (1, 2, 2, 2, 3))}
    assert 0.05 < np.mean([not bool(sample.overview.known) for sample in drawn]) < 0.15
    mirrored = [
        bool(sample.overview.offsets[0, 0, 0, 0, 2] > sample.overview.offsets[0, 0, 0, 1, 2]) for sample in drawn
    ]
    assert not any(mirrored), "cells and places are mirrored together"
    forms = {(sample.case, tuple(sample.overview.image.flatten().tolist())) for sample in drawn}
    assert len(ids) < len(forms) <= 8 * len(ids), "one image per case, in up to eight mirrored forms"
    for batch in ValidationPatches(folder, ids, plan, 0, 6):
        assert batch.overview.known.all()
        assert len(batch.overview.image) == len(batch.cases)
    without = TrainingSamples(folder, ids, make_plan(patch=(8, 8, 8)), (1, 1), 0)[SampleKey(0, 0)]
    assert without.overview is None
    assert torch.equal(without.image, drawn[0].image), "the overview changes no other draw"


def test_samples_without_text_are_mirrored_along_the_axes_that_texts_name(stored, make_plan):
    folder, ids = stored
    samples = TrainingSamples(folder, ids, make_plan(patch=(8, 8, 8), mirror_axes=(1,), text_axes=(0,)), (1, 1), 0)
    axes = {True: set(), False: set()}
    plain = augment.draw_placement

    def draw(rng, mirror_axes, *others):
        placement = plain(rng, mirror_axes, *others)
        drawn.extend(placement.mirrored)
        return placement

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "draw_placement", draw)
        for index in range(40):
            drawn: list[int] = []
            sample = samples[SampleKey(0, index)]
            axes[sample.with_text].update(drawn)
    assert axes == {True: {1}, False: {0, 1}}
