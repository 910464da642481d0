import numpy as np
import pytest
import torch

from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.uncertainty import disagreement
from textdiffseg.readout import ExclusiveReadout, OverlappingReadout


@pytest.fixture
def apart(plan):
    """Labels that exclude each other."""
    return ExclusiveReadout(plan)


@pytest.fixture
def nested(plan):
    """A label that holds the other; they write 7 and 3."""
    return OverlappingReadout(plan.model_copy(update={"regions": ((3, 7), (3,))}))


def draws(folds, samples, seed=0):
    logits = torch.randn(folds, samples, 1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(seed))
    return (2 * logits).softmax(3)


def split(p, readout):
    means, inner = p.mean(1), readout.entropy(p, 3).mean(1)
    return disagreement(means, inner, readout)


def test_the_two_terms_sum_to_the_whole_mutual_information(apart):
    p = draws(folds=3, samples=5)
    between_samples, between_folds = split(p, apart)
    whole = apart.entropy(p.mean((0, 1)), 1) - apart.entropy(p, 3).mean((0, 1))
    torch.testing.assert_close(between_samples + between_folds, whole)
    assert (between_samples > 0).all()
    assert (between_folds > 0).all()


def test_equal_samples_and_a_single_fold_have_no_disagreement(apart):
    between_samples, _ = split(draws(3, 1).expand(-1, 4, -1, -1, -1, -1, -1), apart)
    assert between_samples.max() < 1e-6
    _, between_folds = split(draws(1, 5), apart)
    assert between_folds.max() < 1e-6


def test_two_confident_folds_that_differ_disagree_by_one_bit(apart):
    p = torch.zeros(2, 1, 1, 3, 1, 1, 1)
    p[0, 0, 0, 1], p[1, 0, 0, 2] = 1, 1
    between_samples, between_folds = split(p, apart)
    assert between_samples.item() == 0
    assert between_folds.item() == pytest.approx(1)


def test_entropy_is_in_bits_and_along_its_dimension(apart):
    assert apart.entropy(torch.full((4, 1, 1, 1), 0.25), 0).item() == pytest.approx(2)
    p = draws(1, 1)[0, 0]
    torch.testing.assert_close(
        apart.entropy(p, 1), torch.distributions.Categorical(p.movedim(1, -1)).entropy() / np.log(2)
    )


def test_a_single_label_has_the_same_entropy_whether_exclusive_or_overlapping(apart, nested):
    logits = 2 * torch.randn(3, 5, 2, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    found = []
    for readout in (apart, nested):
        p = torch.stack([readout.probabilities(of_fold) for of_fold in logits])
        inner = readout.entropy(p, 2)
        found.append((inner, *disagreement(p.mean(1, keepdim=True), inner.mean(1, keepdim=True), readout)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_the_entropy_of_overlapping_labels_is_a_sum_without_background(nested):
    sure, open_ = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    p = torch.stack((torch.rand(2), sure, open_, open_)).view(4, 1, 1, 2)
    assert nested.entropy(p, 0).flatten().tolist() == [2.0, 2.0]
    sharp = torch.stack((torch.rand(2), sure, sure)).view(3, 1, 1, 2)
    assert nested.entropy(sharp, 0).flatten().tolist() == [0.0, 0.0]


def test_both_terms_of_overlapping_labels_are_never_negative_and_sum_to_the_whole(nested):
    logits = 2 * torch.randn(3, 5, 1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    p = torch.stack([nested.probabilities(of_fold.flatten(0, 1)).unflatten(0, (5, 1)) for of_fold in logits])
    inner = nested.entropy(p, 3).mean(1)
    between_samples, between_folds = disagreement(p.mean(1), inner, nested)
    whole = nested.entropy(p.mean((0, 1)), 1) - inner.mean(0)
    torch.testing.assert_close(between_samples + between_folds, whole)
    assert (between_samples > 0).all()
    assert (between_folds > 0).all()


def test_folds_share_their_noise(plan, bank, make_model, image):
    model = make_model(plan)
    prediction = Predictor([model, model], PredictionSettings(steps=4, samples=8)).predict_image(
        image, bank.all_labels(), True
    )
    assert prediction.between_folds.max() < 1e-5
    assert prediction.between_samples.max() > 1e-5
    assert prediction.between_samples.shape == image.shape[1:]
