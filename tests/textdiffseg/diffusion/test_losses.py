import torch

from textdiffseg.diffusion.losses import latent_loss


def test_the_latent_loss_gives_z_0_no_gradient():
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
