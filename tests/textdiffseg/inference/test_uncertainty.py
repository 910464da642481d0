import numpy as np
import pytest
import torch

from textdiffseg.folds.sampling import Settings
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.uncertainty import (
    coverage,
    disagreement,
    entropy,
    interval,
    label_volumes,
    slot_volumes,
)
from textdiffseg.regions import probabilities


def draws(folds, samples, seed=0):
    logits = torch.randn(folds, samples, 1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(seed))
    return (2 * logits).softmax(3)


def split(p):
    means, inner = p.mean(1), entropy(p, 3).mean(1)
    return disagreement(means, inner)


def test_the_two_parts_add_up_to_the_whole_mutual_information():
    p = draws(folds=3, samples=5)
    between_samples, between_folds = split(p)
    whole = entropy(p.mean((0, 1)), 1) - entropy(p, 3).mean((0, 1))
    torch.testing.assert_close(between_samples + between_folds, whole)
    assert (between_samples > 0).all()
    assert (between_folds > 0).all()


def test_equal_samples_do_not_disagree_and_one_fold_does_not_either():
    between_samples, _ = split(draws(3, 1).expand(-1, 4, -1, -1, -1, -1, -1))
    assert between_samples.max() < 1e-6
    _, between_folds = split(draws(1, 5))
    assert between_folds.max() < 1e-6


def test_two_sure_folds_that_differ_disagree_by_one_bit():
    p = torch.zeros(2, 1, 1, 3, 1, 1, 1)
    p[0, 0, 0, 1], p[1, 0, 0, 2] = 1, 1
    between_samples, between_folds = split(p)
    assert between_samples.item() == 0
    assert between_folds.item() == pytest.approx(1)


def test_entropy_is_in_bits_and_along_its_dimension():
    assert entropy(torch.full((4, 1, 1, 1), 0.25), 0).item() == pytest.approx(2)
    p = draws(1, 1)[0, 0]
    torch.testing.assert_close(entropy(p, 1), torch.distributions.Categorical(p.movedim(1, -1)).entropy() / np.log(2))


def test_one_label_is_as_uncertain_whether_labels_may_overlap_or_not():
    logits = 2 * torch.randn(3, 5, 2, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    apart, overlapping = logits.softmax(2), torch.stack([probabilities(of_fold) for of_fold in logits])
    torch.testing.assert_close(entropy(apart, 2), entropy(overlapping, 2, overlapping=True))
    pairs = zip(
        disagreement(apart.mean(1, keepdim=True), entropy(apart, 2).mean(1, keepdim=True)),
        disagreement(
            overlapping.mean(1, keepdim=True), entropy(overlapping, 2, True).mean(1, keepdim=True), overlapping=True
        ),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_labels_that_overlap_add_up_and_background_is_no_question():
    sure, open_ = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    p = torch.stack((torch.rand(2), sure, open_, open_)).view(4, 1, 1, 2)
    assert entropy(p, 0, overlapping=True).flatten().tolist() == [2.0, 2.0]
    sharp = torch.stack((torch.rand(2), sure, sure)).view(3, 1, 1, 2)
    assert entropy(sharp, 0, overlapping=True).flatten().tolist() == [0.0, 0.0]


def test_both_parts_are_never_negative_and_add_up_where_labels_overlap():
    logits = 2 * torch.randn(3, 5, 1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    p = torch.stack([probabilities(of_fold.flatten(0, 1)).unflatten(0, (5, 1)) for of_fold in logits])
    inner = entropy(p, 3, overlapping=True).mean(1)
    between_samples, between_folds = disagreement(p.mean(1), inner, overlapping=True)
    whole = entropy(p.mean((0, 1)), 1, overlapping=True) - inner.mean(0)
    torch.testing.assert_close(between_samples + between_folds, whole)
    assert (between_samples > 0).all()
    assert (between_folds > 0).all()


def test_slot_volumes_count_voxels_by_their_share():
    p = torch.tensor([[0.9, 0.1, 0.3], [0.1, 0.3, 0.7], [0.0, 0.6, 0.0]]).view(3, 1, 1, 3)
    share = torch.tensor([0.5, 1.0, 0.25]).view(1, 1, 3)
    assert slot_volumes(p, share, 2).tolist() == [0.5, 0.25, 1.0]
    assert slot_volumes(p, share, 1).tolist() == [1.5, 0.25], "what a rival wins is background"


def test_the_last_label_above_one_half_writes_the_volume_and_the_whole_holds_its_part(plan):
    p = torch.tensor([[0.1, 0.4, 0.5, 0.9], [0.9, 0.6, 0.2, 0.1], [0.6, 0.3, 0.5, 0.1]]).view(3, 1, 1, 4)
    volumes = slot_volumes(p, torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 1, 4), 2, overlapping=True).numpy()
    assert volumes.tolist() == [12, 2, 1]
    nested = plan.model_copy(update={"regions": ((3, 7), (3,))})  # labels write 7 and 3
    assert label_volumes(volumes, nested, [1, 2]).tolist() == [3, 1]
    assert label_volumes(volumes, nested, [2, 1]).tolist() == [2, 3], "slots in another order"
    assert label_volumes(volumes, plan, [1, 2]).tolist() == [2, 1]
    assert label_volumes(np.stack((volumes, 2 * volumes)), nested, [1, 3]).tolist() == [[2, 1], [4, 2]], "3 is no label"


def test_an_interval_holds_nine_of_ten_draws():
    rng = np.random.default_rng(0)
    low, high = interval(rng.normal(size=(5, 4000)))
    assert (low, high) == pytest.approx((-1.645, 1.645), abs=0.05)
    assert coverage([(low, high)] * 4000, rng.normal(size=4000)) == pytest.approx(0.9, abs=0.02)


def test_volumes_of_each_sample_fill_the_volume_and_match_a_single_window(plan, bank, make_model):
    image = torch.randn(1, *plan.patch, generator=torch.Generator().manual_seed(1))
    model = make_model(plan)
    settings = Settings(steps=4, samples=8)
    prediction = Predictor([model, make_model(plan, 1)], settings).predict_image(image, bank.all_labels(), True)
    assert prediction.volumes.shape == (2, 8, 3)
    assert prediction.volumes.sum(2) == pytest.approx(np.full((2, 8), image.numel()))
    alone = Predictor([model], Settings(steps=4)).predict_image(image, bank.all_labels()).probabilities
    counts = np.bincount(alone.argmax(0).numpy().ravel(), minlength=3)
    assert prediction.volumes[0, 0] == pytest.approx(counts)


def test_folds_share_their_noise(plan, bank, make_model, image):
    model = make_model(plan)
    prediction = Predictor([model, model], Settings(steps=4, samples=8)).predict_image(image, bank.all_labels(), True)
    assert (prediction.volumes[0] == prediction.volumes[1]).all()
    assert prediction.between_folds.max() < 1e-5
    assert prediction.between_samples.max() > 1e-5
    assert prediction.between_samples.shape == image.shape[1:]
