import pytest
import torch

from textdiffseg.losses import region_loss, segmentation_loss

SHAPE = (4, 5, 6)


def random_case(batch, slots, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, slots + 1, *SHAPE, generator=generator)
    return logits, torch.randint(0, slots + 1, (batch, *SHAPE), generator=generator)


def test_a_perfect_prediction_has_no_loss_and_a_wrong_one_a_large_loss():
    _, slots = random_case(2, 2)
    logits = 50.0 * torch.nn.functional.one_hot(slots, 3).movedim(-1, 1)
    labels = torch.tensor([[1, 2], [1, 2]])
    assert segmentation_loss(logits, slots, labels) < 1e-4
    assert segmentation_loss(-logits, slots, labels) > 10


def test_dice_is_summed_by_label_and_not_by_slot():
    """The order of a sample's queries does not change the loss."""
    logits, slots = random_case(2, 2)
    labels = torch.tensor([[1, 2], [1, 2]])
    swapped_logits, swapped_slots, swapped_labels = logits.clone(), slots.clone(), torch.tensor([[1, 2], [2, 1]])
    swapped_logits[1] = logits[1, [0, 2, 1]]
    swapped_slots[1] = torch.tensor([0, 2, 1])[slots[1]]
    expected = segmentation_loss(logits, slots, labels)
    torch.testing.assert_close(segmentation_loss(swapped_logits, swapped_slots, swapped_labels), expected)
    by_slot = segmentation_loss(swapped_logits, swapped_slots, labels)
    assert abs(by_slot - expected) > 1e-4


def test_dice_by_hand():
    p = torch.zeros(1, 2, 1, 1, 4)
    p[0, 1] = torch.tensor([1.0, 0.5, 0.0, 0.0])
    slots = torch.tensor([[[[1, 1, 0, 0]]]])
    p[0, 0] = 1 - p[0, 1]
    logits, labels = p.clamp(min=1e-9).log(), torch.tensor([[1]])
    value = 1 - segmentation_loss(logits, slots, labels) + segmentation_loss(logits, slots, labels, dice_weight=0)
    assert value.item() == pytest.approx((2 * 1.5 + 1) / (1.5 + 2 + 1))


def test_ignored_voxels_and_padded_slots_change_nothing():
    logits, slots = random_case(1, 1)
    labels = torch.tensor([[3]])
    slots[0, :2] = -1
    noisy = logits.clone()
    noisy[0, :, :2] = 7 * torch.randn(2, 2, *SHAPE[1:], generator=torch.Generator().manual_seed(5))
    expected = segmentation_loss(logits, slots, labels)
    torch.testing.assert_close(segmentation_loss(noisy, slots, labels), expected)
    padded = torch.cat((logits, torch.full_like(logits[:, :1], -1e4)), dim=1)
    torch.testing.assert_close(segmentation_loss(padded, slots, torch.tensor([[3, 0]])), expected)


def missed(entropy):
    """The mean cross-entropy of voxels, weighted by the square of the probability that they lack."""
    return (1 - (-entropy).exp().mean()) ** 2 * entropy.mean()


def test_balanced_cross_entropy_is_the_mean_over_the_missed_classes_of_a_sample():
    logits, slots = random_case(2, 3)
    slots[0, 0], slots[1] = -1, torch.where(slots[1] == 2, 0, slots[1])  # ignored voxels; a class that is missing
    labels = torch.tensor([[1, 2, 3], [1, 2, 3]])
    entropy = torch.nn.functional.cross_entropy(logits, slots.clamp(min=0), reduction="none")
    of_samples = [
        torch.stack([missed(entropy[b][slots[b] == one]) for one in range(4) if (slots[b] == one).any()]).mean()
        for b in range(2)
    ]
    found = segmentation_loss(logits, slots, labels, balance=0.3) - segmentation_loss(logits, slots, labels)
    torch.testing.assert_close(found, 0.3 * torch.stack(of_samples).mean())


def test_balanced_cross_entropy_of_labels_that_overlap_is_the_mean_of_inside_and_outside():
    z = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    values = torch.zeros(1, *SHAPE, dtype=torch.int64)
    values[0, 0, 0, :3], values[0, 1] = 1, -1
    labels = torch.tensor([[1, 0]])  # one label, one padded slot
    members = torch.tensor([[[False, True], [False, False]]])
    entropy = torch.nn.functional.softplus(z[0, 0] - z[0, 1]), torch.nn.functional.softplus(z[0, 1] - z[0, 0])
    expected = (missed(entropy[0][values[0] == 1]) + missed(entropy[1][values[0] == 0])) / 2
    found = region_loss(z, values, members, labels, balance=0.3) - region_loss(z, values, members, labels)
    torch.testing.assert_close(found, 0.3 * expected)


@pytest.mark.parametrize("voxels", [1, 20])
def test_a_label_of_any_size_pulls_as_hard_as_the_background(voxels):
    slots = torch.zeros(1, *SHAPE, dtype=torch.int64)
    slots.view(-1)[:voxels] = 1
    logits = torch.zeros(1, 2, *SHAPE, requires_grad=True)
    labels = torch.tensor([[1]])
    more = segmentation_loss(logits, slots, labels, balance=1.0) - segmentation_loss(logits, slots, labels)
    (gradient,) = torch.autograd.grad(more, logits)
    inside, outside = (gradient[0, 1][slots[0] == number].sum() for number in (1, 0))
    assert inside.item() == pytest.approx(-0.0625)
    assert outside.item() == pytest.approx(0.0625)


def test_a_label_that_is_found_pulls_no_more():
    slots = torch.zeros(1, *SHAPE, dtype=torch.int64)
    slots.view(-1)[:20] = 1
    labels, gradients = torch.tensor([[1]]), []
    for sharpness in (0.0, 4.0):
        logits = (sharpness * torch.stack((slots == 0, slots == 1), dim=1)).float().requires_grad_()
        more = segmentation_loss(logits, slots, labels, balance=1.0) - segmentation_loss(logits, slots, labels)
        gradients.append(torch.autograd.grad(more, logits)[0].abs().sum().item())
    assert gradients[1] < 1e-3 * gradients[0]


def overlapping(labels, order=((1, 2, 3), (2, 3), (3,))):
    """(B, Q, 1 + E) bool of three nested labels."""
    table = torch.tensor([[number in (order[label - 1] if label else ()) for number in range(4)] for label in range(4)])
    return table[labels]


def nested_case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, *SHAPE, generator=generator)
    return logits, torch.randint(0, 4, (2, *SHAPE), generator=generator), torch.tensor([[1, 2, 3], [1, 2, 3]])


def test_a_single_label_has_the_same_loss_whether_exclusive_or_overlapping():
    logits, slots = random_case(2, 1)
    labels, membership = torch.tensor([[1], [1]]), torch.tensor([[[False, True]], [[False, True]]])
    slots[0, :1] = -1
    torch.testing.assert_close(region_loss(logits, slots, membership, labels), segmentation_loss(logits, slots, labels))


def test_overlapping_labels_have_separate_losses():
    _, value_map, labels = nested_case()
    true = torch.stack([value_map > 0, value_map > 1, value_map > 2], 1)
    logits = torch.cat((torch.zeros(2, 1, *SHAPE), 50.0 * true.float() - 25.0), 1)
    perfect = region_loss(logits, value_map, overlapping(labels), labels)
    assert perfect < 1e-4
    logits[:, 2] *= -1
    assert region_loss(logits, value_map, overlapping(labels), labels) > 8


def test_ignored_voxels_padded_slots_and_the_order_of_overlapping_labels_change_nothing():
    logits, value_map, labels = nested_case()
    value_map[0, :2] = -1
    expected = region_loss(logits, value_map, overlapping(labels), labels)
    noisy = logits.clone()
    noisy[0, :, :2] = 7.0
    torch.testing.assert_close(region_loss(noisy, value_map, overlapping(labels), labels), expected)
    padded = torch.cat((labels, torch.zeros(2, 1, dtype=torch.int64)), 1)
    more = torch.cat((logits, torch.full_like(logits[:, :1], -1e4)), 1)
    torch.testing.assert_close(region_loss(more, value_map, overlapping(padded), padded), expected)
    turned, swapped = labels.clone(), logits.clone()
    turned[1], swapped[1] = torch.tensor([3, 1, 2]), logits[1, [0, 3, 1, 2]]
    torch.testing.assert_close(region_loss(swapped, value_map, overlapping(turned), turned), expected)
