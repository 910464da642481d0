import pytest
import torch

from textdiffseg.diffusion.losses import latent_loss, segmentation_loss, soft_dice

SHAPE = (4, 5, 6)


def random_case(batch, slots, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, slots + 1, *SHAPE, generator=generator)
    return logits, torch.randint(0, slots + 1, (batch, *SHAPE), generator=generator)


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_much():
    _, slots = random_case(2, 2)
    logits = 50.0 * torch.nn.functional.one_hot(slots, 3).movedim(-1, 1)
    labels = torch.tensor([[1, 2], [1, 2]])
    assert segmentation_loss(logits, slots, labels) < 1e-4
    assert segmentation_loss(-logits, slots, labels) > 10


def test_dice_is_summed_by_label_and_never_by_slot():
    """The order in which a sample asks for its labels changes nothing."""
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
    value = soft_dice(p, slots, torch.tensor([[1]]), torch.ones(1))
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


def test_the_latent_losss_gradient_stops_at_z_0():
    z_0_hat, z_0 = (torch.full((2, 3, 1, 1, 1), one, requires_grad=True) for one in (0.0, 1.0))
    latent_loss(z_0_hat, z_0, torch.zeros(2, 4, 4, 4)).backward()
    assert z_0_hat.grad is not None
    assert z_0.grad is None


def test_the_latent_loss_is_the_mean_over_known_positions():
    generator = torch.Generator().manual_seed(0)
    z_0_hat, z_0 = torch.randn(2, 2, 8, 2, 2, 2, generator=generator)
    slots = torch.zeros(2, 4, 6, 8, dtype=torch.int64)
    torch.testing.assert_close(latent_loss(z_0_hat, z_0, slots), torch.nn.functional.mse_loss(z_0_hat, z_0))
    slots[0, :2] = -1  # half of the first sample's positions
    known = torch.cat((z_0_hat[0, :, 1:] - z_0[0, :, 1:], z_0_hat[1] - z_0[1]), dim=1)
    torch.testing.assert_close(latent_loss(z_0_hat, z_0, slots), known.square().mean())
    assert latent_loss(z_0_hat, z_0, torch.full_like(slots, -1)) == 0
