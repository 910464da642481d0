"""A run of preset `default` learns masks first, then the sampler alone on the best weights."""

import errno
import json
import shutil
from dataclasses import replace

import pytest
import torch

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.data.batch import Batch
from textdiffseg.data.splits import Split
from textdiffseg.folds.ensemble import load_ensemble
from textdiffseg.folds.position import read_position
from textdiffseg.folds.weights import load_network, read_tensors
from textdiffseg.networks.model import can_sample
from textdiffseg.queries import Queries
from textdiffseg.segmenter import Segmenter
from textdiffseg.training import loop, objectives, setup, spread
from textdiffseg.training.log import read_log
from textdiffseg.training.optimise import learning_rate
from textdiffseg.training.options import TrainingOptions
from textdiffseg.training.spread import FACTORS_LEAVE, MAX_GAP, OWN_SCALE, SPREADS, choose_spread
from textdiffseg.training.validate import PatchScores, validate_patches

PARTS = ("denoiser.", "sample_decoder.", "common_factors.")
KINDS = {"factors": {"decoder": "likelihood", "n_factors": 2}, "older": {"decoder": "learned", "n_factors": 0}}
FOLD = Split(train=("a", "b"), validation=("c",))
EPOCHS, ITERATIONS, SPLIT, TOTAL = 4, 4, 8, 16
MASKS = {"estimate"}
SAMPLERS = {"factors": {"likelihood", "residual"}, "older": {"reconstruction", "residual"}}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    """The kind of samples: of new plans, or of plans older than 0.3."""
    return request.param


@pytest.fixture(scope="module")
def preprocessed(kind, tmp_path_factory, shapes_plan, store_shapes):
    plan = shapes_plan("default")
    diffusion = plan.diffusion.model_copy(update={"share": 0.4444, **KINDS[kind]})  # half of the epochs
    training = plan.training.model_copy(update={"epochs": EPOCHS, "iterations_per_epoch": ITERATIONS})
    changes = {"patch": (8, 8, 8), "diffusion": diffusion, "training": training}
    return store_shapes(tmp_path_factory.mktemp("preprocessed"), plan.model_copy(update=changes))


WITHOUT_TIME = {"seconds": 0, "iteration_seconds": None, "data_seconds": None}


def train_fold(preprocessed, folder, **options):
    messages = []
    loop.train_fold(preprocessed, FOLD, FoldFolder(folder), TrainingOptions(**options), report=messages.append)
    return messages


@pytest.fixture(scope="module")
def whole(preprocessed, tmp_path_factory):
    """A finished fold. Two things lie beside it.

    `before` is the fold after the first stage. `done` lists the share of the stage that the loss got at each iteration.
    """
    folder = tmp_path_factory.mktemp("whole") / "fold_0"
    plain, balance_at, done = loop.TrainingState.begin_sampler, objectives.balance_at, []

    def begin(self, fold):
        shutil.copytree(fold.path, folder.parent / "before")
        plain(self, fold)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.TrainingState, "begin_sampler", begin)
        patch.setattr(objectives, "balance_at", lambda share: done.append(share) or balance_at(share))
        train_fold(preprocessed, folder)
    (folder.parent / "done").write_text(json.dumps(done))
    return folder


def weights(folder, which) -> dict[str, torch.Tensor]:
    return load_network(FoldFolder(folder), which).state_dict()


def same(some, others) -> bool:
    assert some.keys() == others.keys()
    return all(torch.equal(value, others[name]) for name, value in some.items())


def of_masks(state) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if not name.startswith((*PARTS, "spread"))}


def of_sampler(state) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name.startswith(PARTS)}


def test_each_stage_logs_its_own_losses_and_takes_its_rate_to_0(whole, kind):
    log, plan = read_log(whole / "log.jsonl"), load_network(FoldFolder(whole)).plan.training
    assert [set(entry.losses) for entry in log] == [MASKS, MASKS, SAMPLERS[kind], SAMPLERS[kind]]
    assert [entry.iteration for entry in log] == [4, 8, 12, 16]
    expected = [learning_rate(plan, done, SPLIT) for done in (3, 7, 3, 7)]
    assert [entry.learning_rate for entry in log] == pytest.approx(expected)
    assert log[1].learning_rate < 0.1 * plan.learning_rate


def test_the_loss_of_masks_knows_how_much_of_its_stage_is_done(whole):
    found = json.loads((whole.parent / "done").read_text())
    assert found[-SPLIT:] == [index / SPLIT for index in range(SPLIT)]


def test_the_mask_is_bit_identical_before_and_after_the_denoiser_is_trained(whole):
    before, after = (load_network(FoldFolder(folder)) for folder in (whole.parent / "before", whole))
    assert same(of_masks(before.state_dict()), of_masks(after.state_dict()))
    for part in PARTS:
        old = {name: value for name, value in before.state_dict().items() if name.startswith(part)}
        assert not old or not same(old, {name: after.state_dict()[name] for name in old}), part
    plan, generator = before.plan, torch.Generator().manual_seed(0)
    image = torch.randn(1, 1, *plan.patch, generator=generator)
    queries = queries_of(plan, generator)
    with torch.no_grad():
        first, second = (next(Segmenter.of(one.eval()).logits(image, queries)) for one in (before, after))
    assert torch.equal(first, second)
    log = read_log(whole / "log.jsonl")
    assert log[2].dice == log[3].dice


def queries_of(plan, generator):
    """Random words of both labels."""
    vectors, tokens = (torch.randn(1, count, plan.text.width, generator=generator) for count in (2, 4))
    return Queries(torch.tensor([[1, 2]]), vectors, tokens, torch.ones(1, 4, dtype=torch.bool))


def test_samples_get_a_spread_when_the_sampler_has_learned(whole):
    before, after = weights(whole.parent / "before", "best"), weights(whole, "best")
    assert before["spread"] == 0
    assert FACTORS_LEAVE <= after["spread"] <= max(SPREADS)
    assert torch.equal(after["spread"], weights(whole, "latest")["spread"])
    assert not can_sample([load_network(FoldFolder(whole.parent / "before"))])
    assert can_sample([load_network(FoldFolder(whole))])


def test_the_last_entry_of_the_log_has_the_dice_of_decoded_true_latents(whole):
    log = read_log(whole / "log.jsonl")
    assert [set(entry.latent_dice) for entry in log] == [set(), set(), set(), {"ball", "box"}]


def test_the_spread_fits_the_gaps_and_losses_of_the_samples(kind, whole, preprocessed, monkeypatch):
    opened = setup.set_up_fold(
        preprocessed, FOLD, FoldFolder(whole), TrainingOptions(), "default", print, read_position(FoldFolder(whole))
    )
    least = FACTORS_LEAVE if kind == "factors" else OWN_SCALE
    spreads = sorted({least, *SPREADS})
    figures = iter(range(2 * len(spreads)))
    calls = []
    monkeypatch.setattr(spread, "_gap", lambda *dice: next(figures))
    monkeypatch.setattr(spread, "fitting_spread", lambda *arguments: calls.append(arguments) or 1.75)
    chosen = choose_spread(load_network(FoldFolder(whole)), opened.bank, opened.patches, 0)
    assert chosen.spread == 1.75
    losses, gaps = ({each: first + i for i, each in enumerate(spreads)} for first in (0, len(spreads)))
    assert calls == [(gaps, losses, least)]


def test_agreement_and_reference_are_the_dice_of_two_samples_and_of_one_with_the_labels(
    kind, whole, preprocessed, monkeypatch
):
    """At a spread of 0, without factors, all samples are equal, and have the Dice of the decoded mean.

    By Bayes' rule the mean gives the mask; a learned decoder gives another one.
    """
    opened = setup.set_up_fold(
        preprocessed, FOLD, FoldFolder(whole), TrainingOptions(), "default", print, read_position(FoldFolder(whole))
    )
    network, found = load_network(FoldFolder(whole)), []
    monkeypatch.setattr(spread, "SPREADS", (100.0,))
    monkeypatch.setattr(spread, "OWN_SCALE", 0.0)
    monkeypatch.setattr(spread, "FACTORS_LEAVE", 0.0)
    monkeypatch.setattr(spread.MaskSampler, "given", lambda self, w: self)
    monkeypatch.setattr(spread, "_gap", lambda *dice: found.append(dice) or 0.03)
    choose_spread(network, opened.bank, opened.patches, 0)
    (mask, decoded), _, (agreement, reference), (wide, _) = found
    cpu = torch.device("cpu")
    assert mask == validate_patches(Segmenter.of(network), opened.bank, opened.patches, cpu, 0).dice
    assert decoded == reference
    assert (mask == decoded) == (kind == "factors")
    assert set(agreement.values()) == {1.0}
    assert max(reference.values()) < 1
    assert min(wide.values()) < 1, "after few iterations both samples may miss a label, which is a Dice of 1"
    assert MAX_GAP < 0.05


def test_the_samples_that_choose_the_spread_have_factors_of_their_own(kind, whole, preprocessed, monkeypatch):
    opened = setup.set_up_fold(
        preprocessed, FOLD, FoldFolder(whole), TrainingOptions(), "default", print, read_position(FoldFolder(whole))
    )
    network, drawn, decoded = load_network(FoldFolder(whole)), [], set()
    given, decode = spread.MaskSampler.given, spread.MaskSampler.decode

    def version(self, w):
        drawn.append((w, given(self, w)))
        return drawn[-1][1]

    monkeypatch.setattr(spread.MaskSampler, "given", version)
    monkeypatch.setattr(spread.MaskSampler, "decode", lambda self, *r: decoded.add(id(self)) or decode(self, *r))
    choose_spread(network, opened.bank, opened.patches, 0)
    assert decoded == {id(sampler) for _, sampler in drawn}
    w = torch.cat([factors for factors, _ in drawn])
    assert w.shape[1] == network.plan.n_factors
    if kind == "factors":
        assert len(w.unique(dim=0)) == len(w)
        assert torch.equal(w[::2], -w[1::2]), "both signs of each draw"


def test_opposite_draws_start_from_opposite_noise_and_are_not_compared(whole, preprocessed, monkeypatch):
    opened = setup.set_up_fold(
        preprocessed, FOLD, FoldFolder(whole), TrainingOptions(), "default", print, read_position(FoldFolder(whole))
    )
    network, noise, masks, compared = load_network(FoldFolder(whole)), [], [], []
    readout = type(spread.readout_of(network.plan))
    sample, found, add = spread.MaskSampler.sample, readout.masks, spread.Overlap.add_masks

    def started(self, r_T, steps):
        noise.append(r_T)
        return sample(self, r_T, steps)

    def predicted(self, logits, targets, queries):
        pairs = list(found(self, logits, targets, queries))
        masks.append(pairs[0][0])
        return iter(pairs)

    def counted(self, pairs, queries):
        pairs = list(pairs)
        a, b = pairs[0]
        compared.append(tuple(index for index, mask in enumerate(masks) for one in (a, b) if mask is one))
        return add(self, pairs, queries)

    monkeypatch.setattr(spread, "SPREADS", (FACTORS_LEAVE, OWN_SCALE))
    monkeypatch.setattr(spread.MaskSampler, "sample", started)
    monkeypatch.setattr(readout, "masks", predicted)
    monkeypatch.setattr(spread.Overlap, "add_masks", counted)
    choose_spread(network, opened.bank, opened.patches, 0)
    first, opposite, other, other_opposite = noise[:4]
    assert torch.equal(first, -opposite)
    assert torch.equal(other, -other_opposite)
    assert not torch.equal(first, other)
    between = [numbers for numbers in compared if len(numbers) == 2][:4]
    start = between[0][0]  # of the four samples at the first spread
    assert between == [(start, start + 2), (start, start + 3), (start + 1, start + 2), (start + 1, start + 3)]


def test_each_patch_is_read_with_its_own_queries(whole, preprocessed, monkeypatch):
    opened = setup.set_up_fold(
        preprocessed, FOLD, FoldFolder(whole), TrainingOptions(), "default", print, read_position(FoldFolder(whole))
    )
    read, given, around = Batch.read, [], Segmenter.mask_sampler

    def numbered(batch, bank):
        queries = read(batch, bank)
        given.extend(range(len(given), len(given) + len(batch.image)))
        number = torch.tensor(given[-len(batch.image) :], dtype=torch.float32)
        return replace(queries, tokens=number[:, None, None].expand_as(queries.tokens))

    found = []
    monkeypatch.setattr(Batch, "read", numbered)
    monkeypatch.setattr(
        Segmenter,
        "mask_sampler",
        lambda self, image, queries: found.append(queries.tokens.unique().tolist()) or around(self, image, queries),
    )
    choose_spread(load_network(FoldFolder(whole)), opened.bank, opened.patches, 0)
    assert found == [[number] for number in given]


def test_the_last_dice_is_that_of_decoded_true_latents(whole, preprocessed, monkeypatch):
    opened = setup.set_up_fold(
        preprocessed, FOLD, FoldFolder(whole), TrainingOptions(), "default", print, read_position(FoldFolder(whole))
    )
    true, decoded, decode = [], [], spread.MaskSampler.decode_latent
    monkeypatch.setattr(spread, "SPREADS", ())
    monkeypatch.setattr(spread, "true_latent", lambda *given: true.append(objectives.true_latent(*given)) or true[-1])
    monkeypatch.setattr(spread.MaskSampler, "decode_latent", lambda self, z: decoded.append(z) or decode(self, z))
    monkeypatch.setattr(spread._Overlaps, "choice", lambda *_: None)
    choose_spread(load_network(FoldFolder(whole)), opened.bank, opened.patches, 0)
    assert true
    assert all(any(one is other for other in decoded) for one in true)


def test_the_best_checkpoint_has_the_best_masks_and_the_last_denoiser(preprocessed, tmp_path, monkeypatch):
    """The masks are not validated again while the denoiser learns: the scores are those of the best epoch."""
    averages, left = [], iter((0.5, 0.3))

    def validate(segmenter, *_):
        averages.append({name: value.clone() for name, value in segmenter.network.state_dict().items()})
        return PatchScores({"ball": next(left)}, {})

    monkeypatch.setattr(loop, "validate_patches", validate)
    train_fold(preprocessed, tmp_path)
    best, latest = weights(tmp_path, "best"), weights(tmp_path, "latest")
    assert same(of_masks(best), of_masks(averages[0]))
    assert not same(of_masks(best), of_masks(averages[1]))
    assert same(best, latest)
    assert not same(of_sampler(best), of_sampler(averages[0]))
    assert [entry.mean_dice for entry in read_log(tmp_path / "log.jsonl")] == [0.5, 0.3, 0.5, 0.5]


@pytest.mark.parametrize("stop_at", [5, 8, 9, 12, 14])
def test_a_run_resumes_to_the_same_numbers_in_and_between_both_stages(
    preprocessed, whole, tmp_path, monkeypatch, stop_at, interrupt_after
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, stop_at)
        with pytest.raises(KeyboardInterrupt):
            train_fold(preprocessed, tmp_path)
    assert read_position(FoldFolder(tmp_path)).iteration == stop_at
    train_fold(preprocessed, tmp_path)
    for which in ("latest", "best"):
        left, right = (read_tensors(FoldFolder(folder).checkpoint(which)) for folder in (whole, tmp_path))
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []
    logs = [
        [entry.model_copy(update=WITHOUT_TIME) for entry in read_log(one / "log.jsonl")] for one in (whole, tmp_path)
    ]
    assert logs[0] == logs[1]


def test_a_finished_run_that_is_trained_longer_learns_masks_again_and_then_the_denoiser(
    kind, preprocessed, whole, tmp_path, monkeypatch, interrupt_after
):
    folders = [tmp_path / name / "fold_0" for name in ("one", "two")]
    for folder in folders:
        shutil.copytree(whole, folder)
    train_fold(preprocessed, folders[0], epochs=8)
    log, position = read_log(folders[0] / "log.jsonl"), read_position(FoldFolder(folders[0]))
    assert [set(entry.losses) for entry in log] == 2 * [MASKS, MASKS, SAMPLERS[kind], SAMPLERS[kind]]
    assert (position.iteration, position.denoiser_epoch, position.start.iteration) == (32, 6, 16)
    for stop_at in (3, 7):  # in the second stage of masks, in the second one of the denoiser
        with monkeypatch.context() as patch:
            interrupt_after(patch, stop_at)
            with pytest.raises(KeyboardInterrupt):
                train_fold(preprocessed, folders[1], **({"epochs": 8} if stop_at == 3 else {}))
        if stop_at == 3:
            left = read_tensors(FoldFolder(folders[1]).checkpoint("latest"))
            assert left["model.spread"] == left["ema.spread"] == 0, "samples do not fit masks that learn again"
    train_fold(preprocessed, folders[1])
    left, right = (read_tensors(FoldFolder(folder).checkpoint("latest")) for folder in folders)
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_a_run_of_one_epoch_has_no_denoiser(preprocessed, tmp_path):
    train_fold(preprocessed, tmp_path, epochs=1)
    assert [set(entry.losses) for entry in read_log(tmp_path / "log.jsonl")] == [MASKS]
    assert read_position(FoldFolder(tmp_path)).denoiser_epoch is None
    assert weights(tmp_path, "best")["spread"] == 0


def test_one_epoch_after_a_run_of_one_epoch_gives_its_masks_a_sampler(
    kind, preprocessed, tmp_path, monkeypatch, interrupt_after
):
    folders = [tmp_path / name / "fold_0" for name in ("whole", "stopped")]
    train_fold(preprocessed, folders[0], epochs=1)
    shutil.copytree(folders[0], folders[1])
    before = weights(folders[0], "best")
    assert loop.ONE_MORE_EPOCH in train_fold(preprocessed, folders[0], epochs=2)
    after = weights(folders[0], "best")
    assert same(of_masks(before), of_masks(after))
    assert not same(of_sampler(before), of_sampler(after))
    assert (float(before["spread"]), can_sample([load_network(FoldFolder(folders[0]))])) == (0.0, True)
    log = read_log(folders[0] / "log.jsonl")
    assert [set(entry.losses) for entry in log] == [MASKS, SAMPLERS[kind]]
    assert log[0].dice == log[1].dice
    assert train_fold(preprocessed, folders[0], epochs=2) == []
    FoldFolder(folders[1]).checkpoint("best").unlink()  # it is made of the latest one, and the sampler learns on it
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train_fold(preprocessed, folders[1], epochs=2)
    train_fold(preprocessed, folders[1])
    left, right = (read_tensors(FoldFolder(folder).checkpoint("latest")) for folder in folders)
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_two_further_epochs_train_the_masks_and_then_the_sampler(kind, preprocessed, tmp_path):
    train_fold(preprocessed, tmp_path, epochs=1)
    assert loop.ONE_MORE_EPOCH not in train_fold(preprocessed, tmp_path, epochs=3)
    assert [set(entry.losses) for entry in read_log(tmp_path / "log.jsonl")] == [MASKS, MASKS, SAMPLERS[kind]]
    assert can_sample([load_network(FoldFolder(tmp_path))])


def test_compiling_ahead_in_the_sampler_s_stage_needs_no_trained_weights(preprocessed, tmp_path):
    """A resumed run with a time limit compiles before it loads its weights."""
    opened = setup.set_up_fold(preprocessed, FOLD, FoldFolder(tmp_path), TrainingOptions(), "default", print, None)
    position = setup.first_position(opened, TrainingOptions(), print)
    assert position.after(iteration=SPLIT).trains_sampler
    setup.compile_ahead(opened, position.after(iteration=SPLIT))


def test_a_plan_that_was_changed_after_training_is_refused(whole, preprocessed, tmp_path):
    folder = tmp_path / "model" / "fold_0"
    shutil.copytree(whole, folder)
    load_ensemble(folder.parent)
    plan = folder / "plan.json"
    plan.write_text(plan.read_text().replace('"spacing": [\n  1.0', '"spacing": [\n  1.5', 1))
    for use in (lambda: load_ensemble(folder.parent), lambda: train_fold(preprocessed, folder)):
        with pytest.raises(UserError, match=r"plan\.json is not the plan that this fold was trained with"):
            use()


@pytest.mark.parametrize("epochs", [2, 4])
def test_a_run_whose_first_best_checkpoint_was_not_written_resumes(preprocessed, tmp_path, epochs):
    """With two epochs, the sampler learns next, on the best weights."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    whole, failed = tmp_path / "whole", FoldFolder(tmp_path / "failed")
    train_fold(preprocessed, whole, epochs=epochs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.TrainingState, "save_best", full)
        with pytest.raises(OSError, match="No space left"):
            train_fold(preprocessed, failed.path, epochs=epochs)
    assert [failed.checkpoint(which).is_file() for which in ("latest", "best")] == [True, False]
    lines = train_fold(preprocessed, failed.path)
    assert any(line.startswith(f"Resuming at iteration {ITERATIONS} of {epochs * ITERATIONS}") for line in lines)
    assert [entry.epoch for entry in read_log(failed.log)] == list(range(epochs))
    assert same(weights(failed.path, "best"), weights(whole, "best"))
