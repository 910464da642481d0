"""The random parameters of a training step have the plan's shares and reach the right module of the model."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from plans import paper
from plans.network_plan import DiffusionPlan
from textdiffseg.data.batch import SampleKey, batch_keys
from textdiffseg.diffusion.losses import latent_loss, segmentation_loss
from textdiffseg.diffusion.schedule import Schedule
from textdiffseg.networks.blocks import ResidualBlock
from textdiffseg.networks.model import build_model
from textdiffseg.queries import Queries
from textdiffseg.segmenter import Segmenter
from textdiffseg.training.draws import draw, draw_for
from textdiffseg.training.objectives import objective_of

DRAWN, SIGMAS = 10_000, 5  # samples, and standard errors that a share may be off
PLANS = (DiffusionPlan(), DiffusionPlan(timesteps=20, terminal_share=0.3, recycling=0.8, skip_dropout=0.4))


@pytest.fixture(scope="module", params=PLANS, ids=["default", "another"])
def drawn(request):
    """A plan and 10,000 samples' draws."""
    return request.param, draw(request.param, (1, 1, 1, 1), 0, batch_keys(0, 0, DRAWN))


def near(share: float, samples: int = DRAWN):
    """Equal to `share`, within the chance error of so many samples."""
    return pytest.approx(share, abs=SIGMAS * (share * (1 - share) / samples) ** 0.5)


def share(mask: torch.Tensor) -> float:
    return mask.double().mean().item()


def test_the_share_of_samples_at_T_is_the_plan_s(drawn):
    """DESIGN 5, 4."""
    plan, draws = drawn
    assert share(draws.t == plan.timesteps) == near(plan.terminal_share)


def test_all_times_below_T_are_equally_likely(drawn):
    """DESIGN 5, 4: the quantiles of t < T are those of a uniform draw from 1..T - 1."""
    plan, draws = drawn
    others, last = draws.t[draws.t < plan.timesteps], plan.timesteps - 1
    assert 1 <= others.min() <= others.max() <= last
    for part in (0.05, 0.25, 0.5, 0.75, 0.95):
        limit = int(part * last)
        assert share(others <= limit) == near(limit / last, len(others))


def test_noise_prediction_draws_all_times_up_to_T_equally_often():
    times = 5
    plan = paper.DIFFUSION.model_copy(update={"timesteps": times})
    counts = Counter(draw(plan, (1, 1, 1, 1), 0, batch_keys(0, 0, DRAWN)).t.tolist())
    assert sorted(counts) == [1, 2, 3, 4, 5]
    assert all(count / DRAWN == near(1 / times) for count in counts.values())


def test_the_share_of_samples_without_skips_is_the_plan_s(drawn):
    """DESIGN 5, 7; it is the same whether t is T or not."""
    plan, draws = drawn
    assert share(~draws.skips) == near(plan.skip_dropout)
    at_T = draws.t == plan.timesteps
    assert share(~draws.skips[at_T]) == near(plan.skip_dropout, int(at_T.sum()))


def test_the_share_of_recycled_samples_is_the_plan_s_and_none_is_at_T(drawn):
    """DESIGN 5, 4."""
    plan, draws = drawn
    below = draws.t < plan.timesteps
    assert not draws.recycled[~below].any()
    assert share(draws.recycled[below]) == near(plan.recycling, int(below.sum()))


def test_noise_is_standard_normal_and_drawn_for_each_use_and_sample(drawn):
    _, draws = drawn
    eps, first = draws.eps.flatten().double(), draws.first_eps.flatten().double()
    for noise in (eps, first):
        assert noise.mean().item() == pytest.approx(0, abs=SIGMAS / DRAWN**0.5)
        assert noise.std().item() == pytest.approx(1, abs=SIGMAS / DRAWN**0.5)
        assert len(noise.unique()) > 0.99 * DRAWN
    assert torch.corrcoef(torch.stack((eps, first)))[0, 1].abs() < SIGMAS / DRAWN**0.5


def test_a_sample_s_draws_do_not_depend_on_its_batch():
    """DESIGN 7: randomness belongs to a sample, so that the number of ranks changes no draw."""
    plan, keys = DiffusionPlan(terminal_share=0.5), batch_keys(3, 5, 12)
    together = draw(plan, (2, 3, 2, 2), 9, keys)
    for place, key in enumerate(keys):
        alone = draw(plan, (2, 3, 2, 2), 9, [key])
        for name in ("t", "eps", "first_eps", "skips"):
            assert torch.equal(getattr(together, name)[place], getattr(alone, name)[0]), name
    assert torch.equal(draw(plan, (2, 3, 2, 2), 9, keys[::-1]).eps.flip(0), together.eps)


def test_seed_epoch_and_index_each_change_a_sample_s_draws():
    def eps(seed, epoch, index):
        return float(draw(DiffusionPlan(), (1, 1, 1, 1), seed, [SampleKey(epoch, index)]).eps)

    assert len({eps(0, 0, 0), eps(1, 0, 0), eps(0, 1, 0), eps(0, 0, 1)}) == 4


@pytest.fixture
def setting(shapes_plan):
    """A model far from its start, and the inputs of a step on four samples, of which some are recycled, some lose
    their skips, and some do neither."""
    torch.manual_seed(0)
    plan = shapes_plan("default")
    changes = {"terminal_share": 0.3, "skip_dropout": 0.5}
    plan = plan.model_copy(update={"patch": (8, 8, 8), "diffusion": plan.diffusion.model_copy(update=changes)})
    model = build_model(plan)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    words = torch.randn(4, 1, 8), torch.randn(4, 3, 8), torch.ones(4, 3, dtype=torch.bool)
    queries = Queries(torch.tensor([[1], [2], [2], [1]]), *words)
    image, slots = torch.randn(4, 1, 8, 8, 8), torch.randint(0, 2, (4, 8, 8, 8))
    candidates = (draw_for(plan, seed, batch_keys(0, 0, 4)) for seed in range(1000))
    draws = next(one for one in candidates if 0 < one.recycled.sum() < (one.t < 1000).sum() and one.skips.sum() == 2)
    return model, Schedule.of(plan.diffusion), image, slots, queries, draws


def losses(model, _, image, slots, queries, draws):
    return objective_of(Segmenter.of(model)).losses(image, slots, queries, draws)


def calls_of(part, run):
    """The calls of a module while `run()` runs, as [(inputs, output)]."""
    return calls_of_modules((part,), run)[0]


def calls_of_modules(parts, run):
    """The calls of several modules while `run()` runs."""
    calls = [[] for _ in parts]
    handles = [
        part.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append((inputs, output)))
        for part, seen in zip(parts, calls, strict=True)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def test_a_recycled_estimate_is_made_at_T_and_becomes_the_z_0_of_its_samples(setting):
    """DESIGN 5, 4: z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps with the model's own z_0 at T."""
    model, schedule, _, slots, queries, draws = setting
    calls = calls_of(model.denoiser, lambda: losses(*setting))
    assert len(calls) == 2
    (z_T, t, _), estimate = calls[0]
    assert t.tolist() == [1000] * len(draws.estimated)
    assert torch.equal(z_T, draws.first_eps[draws.estimated])
    (z_t, t, _), _ = calls[1]
    assert torch.equal(t, draws.t)
    z_0 = model.encode_labels(slots, queries).detach()
    z_0[draws.recycled] = estimate
    alpha_bar = schedule.alpha_bar[draws.t].view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(z_t, alpha_bar.sqrt() * z_0 + (1 - alpha_bar).sqrt() * draws.eps)


def test_skips_reach_the_decoder_as_they_are_or_as_zeros(setting):
    """DESIGN 5, 7; the clean reconstruction reads no skips."""
    model, draws = setting[0], setting[-1]
    images, decoded = calls_of_modules((model.image_encoder, model.label_decoder), lambda: losses(*setting))
    ((_, (_, encoded)),) = images
    (_, found, _), (_, nothing, _) = (inputs for inputs, _ in decoded)
    assert nothing is None
    assert len(found) == len(encoded) > 0
    for skip, whole in zip(found, encoded, strict=True):
        assert torch.equal(skip[draws.skips], whole[draws.skips])
        assert whole[~draws.skips].abs().amax(dim=(1, 2, 3, 4)).min() > 0
        assert not skip[~draws.skips].any()


def test_each_loss_compares_its_module_s_output_with_the_labels_of_its_samples(setting):
    """DESIGN 5, 7: seg(decoder(z_0_hat)), seg(decoder(z_0)) of the samples drawn for it, and |z_0_hat - z_0|^2."""
    model, _, _, slots, queries, draws = setting
    found, parts = [], (model.label_encoder, model.denoiser, model.label_decoder)
    encoded, denoised, decoded = calls_of_modules(parts, lambda: found.append(losses(*setting)))
    (_, z_0), (painted, clean) = encoded
    _, (_, z_0_hat) = denoised
    (estimated, logits), (reconstructed, logits_clean) = decoded
    rows = draws.reconstructed
    assert torch.equal(encoded[0][0][0], slots)
    assert torch.equal(painted[0], slots[rows])
    assert torch.equal(estimated[0], z_0_hat)
    assert torch.equal(reconstructed[0], clean)
    for given in (painted[1], reconstructed[2]):
        assert torch.equal(given.vectors, queries.vectors[rows])
    assert found[0].named() == {
        "estimate": segmentation_loss(logits, slots, queries.labels),
        "reconstruction": segmentation_loss(logits_clean, slots[rows], queries.labels[rows]),
        "latent": latent_loss(z_0_hat, z_0, slots),
    }
    torch.testing.assert_close(found[0].total, sum(found[0].named().values()))


def test_validation_estimates_in_one_step_from_the_given_noise_at_T(setting):
    model, _, image, _, queries, draws = setting
    calls = calls_of(model.denoiser, lambda: Segmenter.of(model).estimate(image, queries, draws.eps))
    assert len(calls) == 1
    (z_T, t, _), _ = calls[0]
    assert torch.equal(z_T, draws.eps)
    assert t.tolist() == [1000] * 4


def timed_blocks(model) -> list[ResidualBlock]:
    return [part for part in model.denoiser.modules() if getattr(part, "film", None) is not None]


def test_the_output_of_each_time_conditioned_block_depends_on_t(setting):
    """DESIGN 5, 5: if only one block reads t, the whole output depends on it."""
    model = setting[0]
    z_t, z_it = torch.randn(1, 4, 4, 4, 4), torch.randn(1, 8, 4, 4, 4)
    parts = timed_blocks(model)
    assert len(parts) == 3, "two stages down, one up"
    for part in parts:
        with torch.no_grad():
            for other in parts:
                other.film.weight.normal_(0, 0.3) if other is part else other.film.weight.zero_()
            found = [model.denoise(z_t, torch.tensor([t]), z_it) for t in (1, 2, 500, 501, 999, 1000)]
        for one, later in pairwise(found):
            assert (one - later).abs().max() > 1e-3


def test_every_time_conditioned_block_learns_to_read_t(setting):
    model = build_model(setting[0].plan)
    losses(model, *setting[1:]).total.backward()
    assert len(timed_blocks(model)) == 3
    for part in timed_blocks(model):
        assert not part.film.weight.any()
        assert not part.film.bias.any()
        assert part.film.weight.grad.abs().max() > 0
