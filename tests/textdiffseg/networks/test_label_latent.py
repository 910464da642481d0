"""The label latent: the equations of networks/label_latent.py."""

import pytest
import torch

from textdiffseg.networks.label_latent import MIN_SCALE, PRECISION, LabelLatent

STRIDE, WIDTH, CHANNELS, LABELS = (1, 2, 2), 6, 4, 3


@pytest.fixture
def latent():
    torch.manual_seed(0)
    return LabelLatent(STRIDE, WIDTH, CHANNELS)


@pytest.fixture
def vectors():
    return torch.randn(2, LABELS, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def masks():
    slots = torch.randint(0, 1 + LABELS, (2, 4, 6, 8), generator=torch.Generator().manual_seed(2))
    return torch.stack([slots == slot for slot in range(1, 1 + LABELS)], dim=1)


def evidence(latent, difference, vectors):
    """What a latent adds to the labels' logits (B, Q, D, H, W)."""
    size = [edge * step for edge, step in zip(difference.shape[2:], STRIDE, strict=True)]
    weighed = latent.weigh(torch.zeros(len(vectors), 1 + vectors.shape[1], *size), difference, vectors)
    assert not weighed[:, 0].any(), "background gets nothing"
    return weighed[:, 1:]


def code(latent, vector):
    projected = latent.projection @ vector
    return projected / projected.norm() * CHANNELS**0.5


def test_a_position_holds_the_codes_of_its_voxels_labels_by_share(latent, vectors, masks):
    z_0 = latent(masks, vectors)
    assert z_0.shape == (2, CHANNELS, 4, 3, 4)
    voxels = masks[1, :, 2, 4:6, 2:4].float()  # of position (2, 2, 1)
    expected = sum(share * code(latent, vector) for share, vector in zip(voxels.mean((1, 2)), vectors[1], strict=True))
    torch.testing.assert_close(z_0[1, :, 2, 2, 1], expected)


def test_background_and_padded_slots_are_0(latent, vectors, masks):
    assert not latent(torch.zeros_like(masks), vectors).any()
    vectors[:, 2] = 0  # a padded slot has no vector
    torch.testing.assert_close(latent(masks, vectors), latent(masks[:, :2], vectors[:, :2]))


def test_the_mean_is_the_expectation_over_masks_and_the_scale_that_of_positions_that_agree(latent, vectors):
    """Masks are drawn position by position from constant probabilities, for one label."""
    generator, p = torch.Generator().manual_seed(3), 0.3
    drawn = (torch.rand(4000, 1, 2, 2, 2, generator=generator) < p).float()
    drawn = drawn.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)  # all voxels of a position agree
    z_0 = latent(drawn, vectors[:1, :1].expand(4000, -1, -1))
    posterior = latent.posterior(torch.full((1, 1, 2, 4, 4), p), vectors[:1, :1])
    torch.testing.assert_close(posterior.mean[0], z_0.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(posterior.scale[0], z_0.std(0), atol=0.1, rtol=0.05)


def test_a_certain_mask_has_the_least_scale(latent, vectors, masks):
    """Also where the mask's border crosses a position."""
    posterior = latent.posterior(masks.float(), vectors)
    torch.testing.assert_close(posterior.scale, torch.full_like(posterior.scale, MIN_SCALE))
    torch.testing.assert_close(posterior.mean, latent(masks, vectors))


def test_residual_and_latent_are_inverse_at_spread_1(latent, vectors, masks):
    posterior = latent.posterior(torch.full(masks.shape, 0.2), vectors)
    z_0 = latent(masks, vectors)
    r_0 = posterior.residual(z_0)
    torch.testing.assert_close(posterior.latent(r_0, torch.tensor(1.0)), z_0)
    wider = posterior.latent(r_0, torch.tensor(2.0)) - posterior.mean
    torch.testing.assert_close(wider, 2 * (z_0 - posterior.mean))


def test_masks_that_overlap_are_added(latent, vectors):
    both = torch.ones(1, LABELS, 1, 2, 2)
    expected = sum(code(latent, vector) for vector in vectors[0])
    torch.testing.assert_close(latent(both, vectors[:1])[0, :, 0, 0, 0], expected)


def test_labels_with_the_same_words_have_the_same_code_in_any_slot(latent, vectors, masks):
    flipped = latent(masks.flip(1), vectors.flip(1))
    torch.testing.assert_close(flipped, latent(masks, vectors))


def test_the_latent_is_float32_under_autocast(latent, vectors, masks):
    plain = latent.posterior(torch.full(masks.shape, 0.2), vectors)
    with torch.autocast("cpu", torch.bfloat16):
        low = latent.posterior(torch.full(masks.shape, 0.2), vectors)
        z_0 = latent(masks, vectors)
    assert torch.equal(low.mean, plain.mean)
    assert torch.equal(low.scale, plain.scale)
    assert z_0.dtype == torch.float32


def test_the_evidence_for_a_label_is_the_product_with_its_code(latent, vectors):
    """PRECISION <z - m, c_q>, the logarithm of N(z; c_q, I / PRECISION) beyond that of m. Background has 0."""
    difference = torch.randn(2, CHANNELS, 4, 1, 1, generator=torch.Generator().manual_seed(4))
    vectors[0, 2] = 0  # a padded slot
    found = evidence(latent, difference, vectors)
    assert found.shape == (2, LABELS, 4, 2, 2)
    expected = PRECISION * difference[1, :, 3, 0, 0] @ code(latent, vectors[1, 1])
    torch.testing.assert_close(found[1, 1, 3], expected.expand(2, 2))
    assert not found[0, 2].any()

    def log_normal(z):
        return -PRECISION / 2 * (z - code(latent, vectors[1, 1])).square().sum()

    z, m = torch.randn(2, CHANNELS, generator=torch.Generator().manual_seed(5))
    ratio = log_normal(z) - log_normal(m) + PRECISION / 2 * (z.square().sum() - m.square().sum())  # beyond background's
    added = evidence(latent, (z - m).view(1, -1, 1, 1, 1), vectors[1:])
    torch.testing.assert_close(added[0, 1, 0, 0, 0], ratio)


def test_the_evidence_is_interpolated_between_positions(latent, vectors):
    difference = torch.randn(2, CHANNELS, 4, 3, 5, generator=torch.Generator().manual_seed(4))
    found = evidence(latent, difference, vectors)
    assert found.shape == (2, LABELS, 4, 6, 10)
    first, second = (evidence(latent, difference[..., :1, w : w + 1], vectors)[..., 0, 0] for w in (0, 1))
    torch.testing.assert_close(found[..., 0, 1], 0.75 * first + 0.25 * second)


def test_a_true_latent_decodes_to_its_mask_where_the_image_says_nothing(latent, vectors):
    """Larger blocks, as interpolation blurs single positions."""
    slots = torch.randint(0, 1 + LABELS, (2, 1, 2, 2), generator=torch.Generator().manual_seed(2))
    slots = slots.repeat_interleave(4, 1).repeat_interleave(16, 2).repeat_interleave(16, 3)
    masks = torch.stack([slots == slot for slot in range(1, 1 + LABELS)], dim=1)
    flat = torch.full(masks.shape, 1 / (1 + LABELS))
    difference = latent(masks, vectors) - latent.posterior(flat, vectors).mean
    logits = latent.weigh(torch.zeros(2, 1 + LABELS, *slots.shape[1:]), difference, vectors)
    assert (logits.argmax(1) == slots).float().mean() > 0.95


def test_weighing_leaves_the_mask_s_logits_as_they_are(latent, vectors):
    """Also if their memory has another order."""
    logits = torch.randn(2, 1 + LABELS, 8, 6, 4).transpose(2, 4)
    before, difference = logits.clone(), torch.randn(2, CHANNELS, 4, 3, 4)
    weighed = latent.weigh(logits, difference, vectors)
    assert torch.equal(logits, before)
    torch.testing.assert_close(
        weighed[:, 1:] - logits[:, 1:], evidence(latent, difference, vectors), atol=1e-5, rtol=1e-5
    )
