"""The random parameters of a training step: each sample has its own."""

from collections import Counter

import pytest
import torch

from textdiffseg.data.batch import SampleKey, batch_keys
from textdiffseg.diffusion.noise import smooth_noise, white_noise
from textdiffseg.training.draws import draw_factors, draw_noise

DRAWN, SIGMAS = 10_000, 5  # samples, and standard errors that a share may be off


def near(share: float, samples: int = DRAWN):
    """Equal to `share`, within the chance error of so many samples."""
    return pytest.approx(share, abs=SIGMAS * (share * (1 - share) / samples) ** 0.5)


def share(mask: torch.Tensor) -> float:
    return mask.double().mean().item()


@pytest.mark.parametrize("draw", [white_noise, smooth_noise])
def test_draws_of_a_step_are_a_function_of_its_keys(draw):
    keys = batch_keys(3, 5, 4)
    noise = [draw_noise(2, (3, 2, 2), 9, keys, draw=draw) for _ in range(2)]
    assert torch.equal(noise[0].t, noise[1].t)
    assert torch.equal(noise[0].eps, noise[1].eps)


def test_a_sample_s_noise_does_not_depend_on_its_batch():
    keys = batch_keys(3, 5, 12)
    together = draw_noise(2, (3, 2, 2), 9, keys)
    for place, key in enumerate(keys):
        alone = draw_noise(2, (3, 2, 2), 9, [key])
        assert torch.equal(together.t[place], alone.t[0])
        assert torch.equal(together.eps[place], alone.eps[0])
    assert torch.equal(draw_noise(2, (3, 2, 2), 9, keys[::-1]).eps.flip(0), together.eps)


def test_seed_epoch_and_index_each_change_a_sample_s_draws():
    def eps(seed, epoch, index):
        return float(draw_noise(1, (1, 1, 1), seed, [SampleKey(epoch, index)]).eps)

    assert len({eps(0, 0, 0), eps(1, 0, 0), eps(0, 1, 0), eps(0, 0, 1)}) == 4


def test_all_levels_of_noise_are_equally_likely():
    t = draw_noise(1, (1, 1, 1), 0, batch_keys(0, 0, DRAWN)).t
    assert 0 <= t.min() < t.max() < 1
    assert len(t.unique()) > 0.99 * DRAWN
    for part in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert share(t <= part) == near(part)


def test_the_publication_draws_all_time_steps_up_to_T_equally_often():
    times = 5
    t = draw_noise(1, (1, 1, 1), 0, batch_keys(0, 0, DRAWN), timesteps=times).t
    counts = Counter((times * t).tolist())
    assert sorted(counts) == [1, 2, 3, 4, 5]
    assert all(count / DRAWN == near(1 / times) for count in counts.values())


def test_several_noisy_latents_of_a_sample_are_spread_evenly_over_the_levels():
    keys = batch_keys(0, 0, 50)
    one, four = draw_noise(2, (3, 1, 1), 0, keys), draw_noise(2, (3, 1, 1), 0, keys, 4)
    t = four.t.view(50, 4)
    torch.testing.assert_close(t, (one.t.view(50, 1) + torch.arange(4)) / 4)
    assert four.eps.shape == (200, 2, 3, 1, 1)
    assert len(four.eps.unique()) == four.eps.numel()
    assert torch.equal(draw_noise(2, (3, 1, 1), 0, keys[7:8], 4).eps, four.eps[28:32])


def test_noise_is_standard_normal():
    eps = draw_noise(1, (1, 1, 1), 0, batch_keys(0, 0, DRAWN)).eps.flatten().double()
    assert eps.mean().item() == pytest.approx(0, abs=SIGMAS / DRAWN**0.5)
    assert eps.std().item() == pytest.approx(1, abs=SIGMAS / DRAWN**0.5)
    assert len(eps.unique()) > 0.99 * DRAWN


def test_smooth_noise_is_correlated_and_white_noise_is_not():
    keys = batch_keys(0, 0, 50)
    for draw, expected in ((white_noise, 0.0), (smooth_noise, 0.8)):
        eps = draw_noise(4, (6, 6, 6), 0, keys, 2, draw=draw).eps
        assert (eps[..., 1:] * eps[..., :-1]).mean().item() == pytest.approx(expected, abs=0.15)


def test_factors_are_a_function_of_the_seed_and_the_sample():
    keys = batch_keys(3, 1, 2)
    drawn = draw_factors(5, 4, 7, keys)
    assert drawn.shape == (4, 2, 5)
    assert torch.equal(draw_factors(5, 4, 7, keys[1:])[:, 0], drawn[:, 1])
    others = [draw_factors(5, 4, 8, keys), draw_factors(5, 4, 7, batch_keys(4, 1, 2)), drawn.flip(1), drawn.flip(0)]
    assert not any(torch.equal(drawn, other) for other in others)
    assert draw_factors(50, 50, 7, keys).std() == pytest.approx(1, abs=0.05)
