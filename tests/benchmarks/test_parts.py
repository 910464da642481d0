"""Each intervention changes the module in its name, and nothing else."""

import argparse
from dataclasses import replace
from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plans.errors import UserError
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.predictor import Predictor
from textdiffseg.networks.model import build_model
from textdiffseg.overview import Overview
from textdiffseg.segmenter import Segmenter, mask_features


@pytest.fixture
def parts(benchmark):
    return benchmark("parts")


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 15, 18, 21, generator=torch.Generator().manual_seed(5))


def predict(model, image, queries):
    return Predictor([model], PredictionSettings()).predict_image(image, queries).probabilities


def test_without_an_intervention_the_prediction_is_the_models_own(parts, model, bank, image):
    queries = bank.all_labels()
    assert torch.equal(predict(parts.Undisturbed(model), image, queries), predict(model, image, queries))


def test_swapping_the_classifiers_vectors_swaps_the_labels(parts, model, bank, image):
    own = predict(model, image, bank.all_labels())
    swapped = predict(parts.SwappedVectors(model), image, bank.all_labels())
    torch.testing.assert_close(swapped, own[[0, 2, 1]])


def test_tokens_of_both_labels_are_one_set_and_of_single_ones_are_not(parts, model, bank, image):
    own, other = (bank.queries([[(number, 0)]]) for number in (1, 2))
    backwards = bank.queries([[(2, 0), (1, 0)]])
    together = predict(model, image, bank.all_labels())
    torch.testing.assert_close(predict(parts.ExchangedTokens(model, backwards), image, bank.all_labels()), together)
    assert torch.equal(predict(parts.ExchangedTokens(model, own), image, own), predict(model, image, own))
    assert not torch.allclose(predict(parts.ExchangedTokens(model, other), image, own), predict(model, image, own))


def test_zeroed_parts_are_zero(parts, model, bank):
    z_i, queries = torch.randn(2, 8, 4, 4, 4), bank.all_labels().expand(2)
    assert torch.equal(parts.NoFusion(model).fuse(z_i, queries), z_i)
    assert not torch.allclose(model.fuse(z_i, queries), z_i)
    fine, middle, h = (torch.randn(2, 8, size, size, size) for size in (16, 8, 4))
    bare = parts.NoSkips(model).decode((fine, middle, h))
    expected = model.decode((torch.zeros_like(fine), torch.zeros_like(middle), h))
    assert all(torch.equal(one, other) for one, other in zip(bare, expected, strict=True))
    assert not torch.allclose(bare[-1], model.decode((fine, middle, h))[-1])


def test_an_intervention_without_loss_is_decorative(parts):
    whole = {"a": 0.75, "b": 0.25}
    rows = {
        "as it is": parts.row(whole),
        "fusion": parts.row({"a": 0.75, "b": 0.246}, whole),
        "skips": parts.row({"a": 0.5, "b": 0.25}, whole),
    }
    assert rows["skips"]["loss"] == 0.125
    assert parts.decorative(rows) == ["fusion"]


def test_a_model_without_these_parts_is_refused(parts, model, tmp_path):
    (tmp_path / "plan.json").write_text(model.plan.model_copy(update={"diffusion": None}).model_dump_json())
    with pytest.raises(UserError, match="has not all of these parts"):
        parts.examine(argparse.Namespace(fold=tmp_path))


@pytest.fixture
def sampled(benchmark):
    return benchmark("sampled_parts")


def scan_of(image, truth):
    """A stored scan whose own grid is the plan's."""
    transform = SimpleNamespace(geometry=SimpleNamespace(spacing=(1.0, 1.0, 1.0)))
    return SimpleNamespace(name="a", image=image, truth=truth, transform=transform, text=None, annotated=None)


class Perfect:
    """A denoiser that knows the residual: it returns the velocity of the truth."""

    def __init__(self, sampled, model, reads):
        self.model, self.reads = model, reads
        self.schedule = sampled.schedule_of_residual(model.plan)

    def __call__(self, r_t, t, conditions):
        a, sigma = self.schedule.coefficients(t, r_t)
        return -(self.reads * r_t / a - a * r_t) / sigma  # its estimate of r_0 is r_t / a, or nothing


@torch.inference_mode()
def test_a_denoiser_that_reads_its_latent_passes_the_true_one_and_another_returns_the_mask(
    sampled, model, bank, image, monkeypatch
):
    labels = torch.randint(0, 3, image.shape[1:], generator=torch.Generator().manual_seed(1))
    known, decoded = torch.cat((image, labels[None].float())), []
    decode = model.decode_sample
    monkeypatch.setattr(model, "decode_sample", lambda z, *rest: decoded.append(z) or decode(z, *rest))
    monkeypatch.setattr(sampled, "smooth_noise", lambda shape, generator: torch.randn(shape, generator=generator))
    for reads in (True, False):
        monkeypatch.setattr(model, "denoise", Perfect(sampled, model, reads))
        probing, queries = sampled.Passthrough(model), bank.all_labels()
        window = torch.nn.functional.pad(known[None, :, :, :16, :16], (0, 0, 0, 0, 0, 1))  # as large as a patch
        mask_features(probing, window, queries)
        p = mask_features(model, window[:, :-1], queries).logits.softmax(1)[:, 1:]
        posterior, slots = model.posterior(p, queries), probing.readout.targets(window[:, -1].long(), queries)
        z_0 = model.encode_masks(torch.stack([slots == 1, slots == 2], dim=1), queries)
        expected = z_0 if reads else posterior.mean
        noise = posterior.scale.square().mean().sqrt().item() * exp(-2)  # at log SNR 4
        off = (decoded[-1] - expected).square().mean().sqrt()
        assert off == pytest.approx(noise * reads, rel=0.2, abs=1e-4)


def test_the_time_of_a_log_snr_is_that_of_the_schedule(sampled, model):
    schedule = sampled.schedule_of_residual(model.plan)
    t = torch.tensor([sampled.time_of(schedule, 4.0)])
    a = schedule.signal(t).item()
    assert log(a**2 / (1 - a**2)) == pytest.approx(4.0, abs=1e-4)


def test_passthrough_gives_the_model_the_labels_of_each_window(sampled, model, bank, image, monkeypatch):
    labels = torch.randint(0, 3, image.shape[1:], generator=torch.Generator().manual_seed(1))
    seen, scored = [], []
    encode = model.encode_masks
    monkeypatch.setattr(model, "encode_masks", lambda masks, queries: seen.append(masks) or encode(masks, queries))

    def dice(predictor, scans, queries):
        scored.extend(scans)
        predictor.predict_image(scans[0].image, queries)
        return {"front": 0.93, "back": 0.95}

    monkeypatch.setattr(sampled, "dice", dice)
    monkeypatch.setattr(sampled, "replace", lambda scan, **changes: SimpleNamespace(**vars(scan) | changes))
    row = sampled.passthrough(
        model, bank.all_labels(), [scan_of(image, None)], [labels], lambda net: Predictor([net], PredictionSettings())
    )
    assert (row["dice"], row["holds"]) == (pytest.approx(0.94), True)
    assert torch.equal(scored[0].image[-1], labels.float())
    assert torch.cat(seen).flatten(2).any(2).all(), "every window has both labels"


def test_passthrough_takes_the_labels_out_of_the_overview(sampled, model, bank, monkeypatch):
    image = torch.randn(1, 2, 8, 8, 8)
    overview = Overview(image, torch.zeros(1, 2, 2, 2, 3), torch.ones(1, dtype=torch.bool))
    seen = []
    monkeypatch.setattr(model, "fuse", lambda z_i, queries: seen.append(queries.overview.image) or z_i)
    sampled.Passthrough(model).fuse(image, replace(bank.all_labels(), overview=overview))
    assert torch.equal(seen[0], image[:, :1])


def test_samples_are_compared_with_each_other_and_with_the_reference(sampled, model, bank, image, monkeypatch):
    """Samples 2i and 2i + 1 lose voxel i of ten, the mask none. They are not compared: they would agree."""
    truth, seeds = np.repeat([1, 0], [10, 90]).reshape(1, 1, 100), []

    def draw_masks(predictor, image, transform, queries, n_answers):
        settings = predictor.settings
        assert (settings.steps, settings.samples) == (model.plan.sample_steps, 8)
        seeds.append(settings.seed)
        found = np.stack(8 * [truth])
        for number, sample in enumerate(found):
            sample[..., number // 2] = 0
        return found

    def score(plan, scan, found):
        both = np.count_nonzero(scan.truth * found)
        return SimpleNamespace(mean_dice=2 * both / (np.count_nonzero(scan.truth) + np.count_nonzero(found)))

    monkeypatch.setattr(sampled, "predict", lambda *_: truth)
    monkeypatch.setattr(sampled, "draw_masks", draw_masks)
    monkeypatch.setattr(sampled, "score", score)
    monkeypatch.setattr(sampled, "replace", lambda scan, **changes: SimpleNamespace(**vars(scan) | changes))
    row = sampled.exchangeability(model, bank.all_labels(), 2 * [scan_of(image, truth)], "cpu")
    assert seeds == [0, 1, 0, 1], "each scan has draws of its own; then those of the control"
    assert row["noise_alone"]["agreement"] == row["agreement"]
    assert (row["agreement"], row["reference"], row["mask"]) == pytest.approx((8 / 9, 18 / 19, 1))
    assert (row["gap"], row["sample_below_mask"]) == pytest.approx((18 / 19 - 8 / 9, 1 / 19))
    assert not row["holds"]


@torch.no_grad()
def test_without_the_denoiser_a_sample_is_the_version_that_its_factors_choose(sampled, model, bank):
    diffusion = model.plan.diffusion.model_copy(update={"decoder": "likelihood", "n_factors": 3})
    plan, queries = model.plan.model_copy(update={"diffusion": diffusion}), bank.all_labels()
    torch.manual_seed(0)
    model = build_model(plan).eval()
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    model.spread.fill_(1.5)
    image, factors = torch.randn(1, 1, *plan.patch), torch.tensor([[1.0, 0.5, -2.0]])
    noise = torch.randn(1, 1, plan.latent.channels, *plan.latent_shape)
    (sample,) = Segmenter.of(sampled.without_denoiser(model)).logits(image, queries, noise, 3, factors)
    version = Segmenter.of(model).mask_sampler(image, queries).given(factors).features.logits
    torch.testing.assert_close(sample, version, atol=1e-3, rtol=0)
    (whole,) = Segmenter.of(model).logits(image, queries, noise, 3, factors)
    assert not torch.allclose(whole, version, atol=0.1)
