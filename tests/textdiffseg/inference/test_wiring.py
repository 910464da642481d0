"""Windows, noise and views of a prediction follow DESIGN 6, checked on the inputs of the model's parts."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.tiling import importance, tile


@pytest.fixture(scope="module")
def image():
    """Enough latent positions for the statistics of the noise; no axis is a multiple of the stride."""
    return torch.randn(1, 15, 27, 21, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def predict(bank, image):
    """A function that predicts in groups of `batch` windows, and returns the prediction with what the denoiser of each
    model got: [(r_t, t)], and the patches that its image encoder got."""

    def run(*models, batch=1, **settings):
        noise, patches, handles = [[] for _ in models], [], []
        for model, seen in zip(models, noise, strict=True):
            handles.append(model.image_encoder.register_forward_pre_hook(lambda _, args: patches.append(args[0])))
            if model.denoiser is not None:
                keep = lambda _, args, seen=seen: seen.append((args[0][0], args[1]))  # noqa: E731
                handles.append(model.denoiser.register_forward_pre_hook(keep))
        try:
            found = Predictor(models, PredictionSettings(**settings), batch=batch).predict_image(
                image, bank.all_labels()
            )
        finally:
            for handle in handles:
                handle.remove()
        return found, noise, patches

    return run


@pytest.fixture
def tiling(image, plan):
    return tile(tuple(image.shape[1:]), plan.patch, plan.latent_stride, PredictionSettings().overlap)


def counted(calls) -> Counter:
    """How often each r_T was given."""
    return Counter(r_T.numpy().tobytes() for r_T, t in calls if t.tolist() == [1])


@pytest.mark.parametrize("batch", [1, 3])
def test_overlapping_windows_share_the_noise_of_their_place_and_no_place_that_of_another(
    predict, tiling, plan, make_model, batch
):
    """Put together, the windows' noise is one volume, in which no number comes twice."""
    _, (calls,), _ = predict(make_model(plan), batch=batch, steps=1)
    whole = torch.full((plan.latent.channels, *tiling.latent_shape), torch.nan)
    noise, times = (torch.cat(parts) for parts in zip(*calls, strict=True))
    assert set(times.tolist()) == {1}
    overlapping = 0
    for start, z_T in zip(tiling.starts, noise, strict=False):  # the last group may be padded
        there = whole[:, *tiling.latent_window(start)]
        known = ~there.isnan()
        overlapping += int(known.sum())
        assert torch.equal(z_T[known], there[known])
        there.copy_(z_T)
    assert overlapping > whole.numel() / 2
    assert not whole.isnan().any()
    assert len(whole.unique()) > 0.999 * whole.numel(), "smooth noise may repeat a rounded value by chance"
    assert whole.std().item() == pytest.approx(1, abs=0.2)
    assert whole.mean().item() == pytest.approx(0, abs=0.2)


def test_mirrored_views_get_the_noise_of_the_plain_one(predict, tiling, plan, make_model):
    """Noise is not flipped: each window's is given as often as there are views, which see the patch flipped."""
    _, (calls,), patches = predict(make_model(plan), mirror_axes=(0, 2), steps=1)
    assert list(counted(calls).values()) == [4] * len(tiling.starts)
    plain, *flipped = patches[:4]
    for view, dims in zip(flipped, ((2,), (4,), (2, 4)), strict=True):
        assert torch.equal(view, plain.flip(dims))


def test_each_sample_has_noise_of_its_own(predict, tiling, plan, make_model):
    _, (calls,), _ = predict(make_model(plan), samples=3, steps=1)
    assert list(counted(calls).values()) == [1] * (3 * len(tiling.starts))
    _, (one,), _ = predict(make_model(plan), samples=1, steps=1)
    assert counted(one).keys() < counted(calls).keys(), "the first sample's is the same, however many there are"
    _, (other,), _ = predict(make_model(plan), samples=1, seed=1, steps=1)
    assert not counted(one).keys() & counted(other).keys()


def test_folds_share_their_noise(predict, plan, make_model):
    _, (first, second), _ = predict(make_model(plan, 0), make_model(plan, 1), samples=2, mirror_axes=(1,), steps=1)
    assert counted(first) == counted(second)


def test_the_denoiser_runs_at_even_levels_of_log_snr_from_the_noisiest_to_the_cleanest(
    predict, tiling, plan, make_model
):
    _, (calls,), _ = predict(make_model(plan), steps=5)
    assert [float(t) for _, t in calls] == [1, 0.75, 0.5, 0.25, 0] * len(tiling.starts)


def test_the_mask_needs_no_denoiser(predict, plan, make_model):
    _, (calls,), _ = predict(make_model(plan))
    assert calls == []


def test_a_voxel_is_the_gaussian_mean_of_its_windows(predict, tiling, make_plan, make_model):
    """p = sum_w g_w p_w / sum_w g_w with g a Gaussian of an eighth of the patch (DESIGN 6)."""
    model, logits = make_model(make_plan("unet")), []
    model.label_decoder.classifier.register_forward_hook(lambda _, __, output: logits.append(output[0].clone()))
    found, _, _ = predict(model)
    sums, weights = torch.zeros(3, *tiling.padded), torch.zeros(tiling.padded)
    for start, one in zip(tiling.starts, logits, strict=True):
        window, g = tiling.window(start), gaussian(tiling.patch)
        sums[:, *window] += g * one.softmax(0)
        weights[window] += g
    torch.testing.assert_close(found.probabilities, (sums / weights)[:, *tiling.interior], atol=1e-5, rtol=1e-4)


def gaussian(patch):
    axes = [torch.arange(size) - (size - 1) / 2 for size in patch]
    squares = [(axis / (size / 8)) ** 2 for axis, size in zip(axes, patch, strict=True)]
    g = torch.exp(-(squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]) / 2)
    return (g / g.max()).clamp(min=1e-3)


@pytest.mark.parametrize("patch", [(8, 16, 16), (7, 12, 31)])
def test_importance_is_a_gaussian_of_an_eighth_of_the_patch(patch):
    torch.testing.assert_close(importance(patch), gaussian(patch))


def test_windows_start_on_the_latent_grid_and_overlap_by_half(predict, tiling, image, plan, make_model):
    """DESIGN 6: the windows that the model sees, found again in the image."""
    _, _, patches = predict(make_model(plan))
    padded, starts = tiling.pad(image), []
    for patch in patches:
        places = [start for start in grid(tiling.padded, plan) if torch.equal(patch[0], cut(padded, start, plan.patch))]
        assert len(places) == 1, "on the latent grid"
        starts += places
    for axis in range(3):
        along = sorted({start[axis] for start in starts})
        steps = [later - start for start, later in pairwise(along)]
        assert max(steps) <= plan.patch[axis] / 2
        assert (along[0], along[-1]) == (0, tiling.padded[axis] - plan.patch[axis])


def grid(shape, plan):
    """Every latent position at which a window may start."""
    ends = (
        range(0, size - edge + 1, step) for size, edge, step in zip(shape, plan.patch, plan.latent_stride, strict=True)
    )
    return torch.cartesian_prod(*(torch.tensor(list(end)) for end in ends)).tolist()


def cut(volume, start, patch):
    return volume[:, *(slice(first, first + edge) for first, edge in zip(start, patch, strict=True))]
