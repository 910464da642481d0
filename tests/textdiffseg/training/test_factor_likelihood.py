"""The likelihood of true masks under draws of a sample's common factors."""

import pytest
import torch

from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.readout import readout_of
from textdiffseg.segmenter import Segmenter
from textdiffseg.training import factor_likelihood
from textdiffseg.training.factor_likelihood import log_likelihoods

BATCH, DRAWS, FACTORS = 2, 3, 4


def with_factors(plan, **changes):
    diffusion = plan.diffusion.model_copy(update={"decoder": "likelihood", "n_factors": FACTORS})
    return plan.model_copy(update={"diffusion": diffusion, **changes})


@pytest.fixture
def make_setting(shapes_plan, monkeypatch):
    """A function that returns a sampler, factors and targets of random weights. All voxels count."""
    monkeypatch.setattr(factor_likelihood, "likelihood_voxels", lambda positions: 8 * positions)

    def make(**changes):
        torch.manual_seed(0)
        model = build_model(with_factors(shapes_plan("default"), **changes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        labels = torch.tensor([[1, 2], [2, 0]])
        mask = labels > 0
        vectors = torch.randn(BATCH, 2, 8) * mask.unsqueeze(2)
        queries = Queries(labels, vectors, torch.randn(BATCH, 3, 8), torch.ones(BATCH, 3, dtype=torch.bool))
        image, targets = torch.randn(BATCH, 1, 16, 16, 16), torch.randint(0, 2, (BATCH, 16, 16, 16))
        targets[:, 0] = -1
        with torch.no_grad():
            sampler = Segmenter.of(model).mask_sampler(image, queries)
        return sampler, torch.randn(DRAWS, BATCH, FACTORS), targets

    return make


def by_hand(sampler, factors, targets, log_p):
    """The sum over voxels of log p(y | w), from the logits of each draw. `log_p`: of logits and targets."""
    known = targets >= 0
    return torch.stack([(log_p(sampler.given(w).features.logits) * known).flatten(1).sum(1) for w in factors])


@torch.no_grad()
def test_it_is_the_log_probability_of_the_true_classes_under_each_draw(make_setting):
    sampler, factors, targets = make_setting()

    def log_p(logits):
        return logits.log_softmax(1).gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)

    found = log_likelihoods(sampler, factors, targets, readout_of(sampler.network.plan))
    assert found.shape == (DRAWS, BATCH)
    torch.testing.assert_close(found, by_hand(sampler, factors, targets, log_p), rtol=1e-4, atol=0.1)
    assert found.std(0).min() > 1


@torch.no_grad()
def test_overlapping_labels_are_binary(make_setting):
    """Value 1 belongs to both labels; the second patch queries the second label alone."""
    sampler, factors, targets = make_setting(regions=((1, 2), (2,)))
    readout = readout_of(sampler.network.plan)

    def log_p(logits):
        z = logits[:, 1:] - logits[:, :1]
        true = readout.true_masks(targets, sampler.queries)
        terms = torch.where(true, z, -z).sigmoid().log()
        return (terms * sampler.queries.mask[:, :, None, None, None]).sum(1)

    found = log_likelihoods(sampler, factors, targets, readout)
    torch.testing.assert_close(found, by_hand(sampler, factors, targets, log_p), rtol=1e-4, atol=0.1)


def test_the_voxels_that_count_are_those_of_the_least_sure_mask(make_setting, monkeypatch):
    monkeypatch.setattr(factor_likelihood, "likelihood_voxels", lambda positions: 50)
    sampler, factors, targets = make_setting()
    readout = readout_of(sampler.network.plan)
    with torch.no_grad():
        unsure = readout.entropy(readout.probabilities(sampler.features.logits), 1) * (targets >= 0)
        counted = torch.zeros_like(targets).flatten(1).scatter_(1, unsure.flatten(1).topk(50).indices, 1)
        found = log_likelihoods(sampler, factors, targets, readout)
        others = targets.masked_fill(counted.view_as(targets) == 0, -1)
        torch.testing.assert_close(log_likelihoods(sampler, factors, others, readout), found)
        wrong = torch.where(counted.view_as(targets) == 1, 1 - targets, targets)
        assert not torch.allclose(log_likelihoods(sampler, factors, wrong, readout), found, atol=1)


@torch.no_grad()
def test_ignored_voxels_take_no_places_of_those_that_count(make_setting, monkeypatch):
    monkeypatch.setattr(factor_likelihood, "likelihood_voxels", lambda positions: 50)
    sampler, factors, targets = make_setting()
    readout, logits = readout_of(sampler.network.plan), sampler.features.logits
    unsure = readout.entropy(readout.probabilities(logits), 1)
    ignored = unsure > unsure.flatten(1).median(1).values[:, None, None, None]
    targets = targets.masked_fill(ignored, -1)
    voxels = unsure.masked_fill(targets < 0, -1).flatten(1).topk(50).indices
    log_p = torch.stack([sampler.given(w).features.logits.log_softmax(1) for w in factors])
    true = log_p.flatten(3).gather(3, voxels[None, :, None].expand(DRAWS, -1, 3, -1))
    classes = targets.flatten(1).gather(1, voxels)[None, :, None].expand(DRAWS, -1, 1, -1)
    expected = true.gather(2, classes).sum((2, 3))
    found = log_likelihoods(sampler, factors, targets, readout)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.01)


def test_only_the_factors_learn_from_it(make_setting):
    sampler, factors, targets = make_setting()
    log_likelihoods(sampler, factors, targets, readout_of(sampler.network.plan)).sum().backward()
    learning = {
        name.partition(".")[0]
        for name, parameter in sampler.network.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }
    assert "common_factors" in learning
    assert learning <= {"common_factors", "label_decoder"}, "the label vectors also read words; training freezes them"
