"""The two rows of parts.py on diffusion samples: does the denoiser read its latent, and do samples vary as they should?

- `passthrough`: a true latent is decoded with skips. Before, its residual is noised to log SNR +4 (98% of it is signal)
  by the model's own schedule and denoised once. It is the residual that the likeliest of ten draws of the common
  factors leaves, as in training. Dice against the reference (bar: at least 0.92). A denoiser that does
  not read its latent returns the mask instead.
- `exchangeability`: eight samples, drawn as for alternatives. If a sample were a second annotator, it would agree with
  another sample as well as with the reference (bar: both mean Dice differ by at most 0.02). Samples 2i and 2i + 1 have
  opposite factors, so they are not compared with each other. All other pairs are as independent samples; their mean
  depends less on chance. The control is the mask: a sample's Dice is at most 0.04 lower. Two controls draw the same
  factors: `factors_alone` adds nothing to them, and `noise_alone` adds noise of the same spread, without a denoiser.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from stored import Scan, dice, mean, predict, score, written_values
from torch import Tensor

from plans.plan import Plan
from plans.planning.memory import FACTOR_DRAWS
from textdiffseg.diffusion.noise import smooth_noise
from textdiffseg.diffusion.schedule import LogSnrSchedule, schedule_of
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.alternatives import draw_masks, value_table
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.networks.model import TextDiffSeg
from textdiffseg.queries import Queries
from textdiffseg.readout import readout_of
from textdiffseg.segmenter import MaskFeatures, MaskSampler
from textdiffseg.training.factor_likelihood import likeliest, log_likelihoods
from textdiffseg.training.objectives import true_latent

NOISED = 4.0  # log SNR
SAMPLES = 8
NOTHING = 1e-6  # a spread that changes no voxel; with 0, a model has no samples
BARS = {"passthrough": 0.92, "exchangeability": 0.02, "sample_below_mask": 0.04}


class Undisturbed:
    """A trained model with the methods that masks need. Each intervention replaces one method."""

    def __init__(self, model: TextDiffSeg):
        self.model, self.plan = model, model.plan

    def encode_image(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.model.encode_image(image)

    def fuse(self, z_i: Tensor, queries: Queries) -> Tensor:
        return self.model.fuse(z_i, queries)

    def estimate(self, z_it: Tensor) -> Tensor:
        return self.model.estimate(z_it)

    def decode(self, skips: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.model.decode(skips)

    def classify(self, g: Tensor, queries: Queries) -> Tensor:
        return self.model.classify(g, queries)


class Passthrough(Undisturbed):
    """Decodes the true latent after its residual is noised and denoised. The image's last channel is the label map."""

    def __init__(self, model: TextDiffSeg):
        super().__init__(model)
        self.readout, self.schedule = readout_of(model.plan), schedule_of_residual(model.plan)
        self.generator = torch.Generator().manual_seed(0)
        self.labels, self.skips = torch.empty(0), ()  # of the present window

    def encode_image(self, image):
        self.labels = image[:, -1].round().long()
        return super().encode_image(image[:, :-1])

    def fuse(self, z_i, queries):
        overview = queries.overview
        if overview is not None:  # it has the label map, too
            queries = replace(queries, overview=replace(overview, image=overview.image[:, :-1]))
        return super().fuse(z_i, queries)

    def decode(self, skips):
        features, level = super().decode(skips), self.plan.latent.level
        self.skips = (*skips[:level], features[-1 - level])
        return features

    def classify(self, g, queries):
        logits, model = super().classify(g, queries), self.model
        targets = self.readout.targets(self.labels, queries)
        sampler = MaskSampler.around(model, self.schedule, queries, MaskFeatures(logits, self.skips))
        if self.plan.n_factors:
            shape = FACTOR_DRAWS, len(g), self.plan.n_factors
            factors = torch.randn(shape, generator=self.generator).to(g.device)
            sampler = likeliest(sampler, factors, log_likelihoods(sampler, factors, targets, self.readout))
        z_0 = true_latent(model, self.readout, sampler.p, targets, queries)
        t = torch.full((len(g),), time_of(self.schedule, NOISED), device=g.device)
        eps = torch.stack([smooth_noise(tuple(latent.shape), self.generator) for latent in z_0]).to(g.device)
        r_t = self.schedule.diffuse(sampler.posterior.residual(z_0), eps, t)
        v_hat = model.denoise(r_t, t, (sampler.posterior.mean, self.skips[-1])).float()
        return sampler.decode(self.schedule.clean(r_t, v_hat, t), torch.ones((), device=g.device))


def schedule_of_residual(plan: Plan) -> LogSnrSchedule:
    """The schedule of a plan of preset `default`."""
    schedule = schedule_of(plan)
    assert isinstance(schedule, LogSnrSchedule), "expected a plan of preset default"
    return schedule


def time_of(schedule: LogSnrSchedule, log_snr: float) -> float:
    """t at which the schedule has this log SNR."""
    return (schedule.max_log_snr - log_snr) / (schedule.max_log_snr - schedule.min_log_snr)


def passthrough(
    model: TextDiffSeg,
    queries: Queries,
    scans: Sequence[Scan],
    label_maps: Sequence[Tensor],
    predictor: Callable[[Undisturbed], Predictor],
) -> dict:
    """The row `passthrough`. `label_maps` (D, H, W) are value numbers on the plan's grid, one per scan."""
    pairs = zip(scans, label_maps, strict=True)
    known = [replace(scan, image=torch.cat((scan.image, labels[None].float()))) for scan, labels in pairs]
    found = dice(predictor(Passthrough(model)), known, queries)
    average = mean(found.values())
    return {"labels": found, "dice": average, "holds": average is not None and average >= BARS["passthrough"]}


def exchangeability(model: TextDiffSeg, queries: Queries, scans: Sequence[Scan], device: str) -> dict:
    """The row `exchangeability`, with its controls."""
    masker = Predictor([model], PredictionSettings(), device)
    mask = _mean_dice(score(model.plan, scan, predict(masker, scan, queries)).mean_dice for scan in scans)
    row = _exchanged(model, queries, scans, device, mask)
    if "gap" not in row:
        return row
    row["holds"] = row["gap"] <= BARS["exchangeability"] and row["sample_below_mask"] <= BARS["sample_below_mask"]
    noise = copy.deepcopy(model)
    noise.denoiser.start_at_zero()
    row["noise_alone"] = _exchanged(noise, queries, scans, device, mask)
    if model.plan.n_factors:
        row["factors_alone"] = _exchanged(without_denoiser(model), queries, scans, device, mask)
    return row


def without_denoiser(model: TextDiffSeg) -> TextDiffSeg:
    """A copy of a model whose samples are the versions that their common factors choose."""
    alone = copy.deepcopy(model)
    alone.spread.fill_(NOTHING)
    return alone


def _exchanged(model: TextDiffSeg, queries: Queries, scans: Sequence[Scan], device: str, mask: float | None) -> dict:
    """The figures of one model. `mask`: the mean Dice of its masks, which the controls share."""
    plan, steps = model.plan, model.plan.sample_steps or 0
    agreement, reference = [], []
    for seed, scan in enumerate(scans):  # factors are equal in scans with the same seed
        settings = PredictionSettings(steps=steps, samples=SAMPLES, seed=seed)
        samples = _drawn(SamplePredictor([model], settings, device), scan, queries)
        for first, second in combinations(range(SAMPLES), 2):
            if first // 2 != second // 2:
                agreement.append(score(plan, replace(scan, truth=samples[first]), samples[second]).mean_dice)
        reference += [score(plan, scan, sample).mean_dice for sample in samples]
    agree, sample = _mean_dice(agreement), _mean_dice(reference)
    if agree is None or sample is None or mask is None:  # no label can be scored
        return {"samples": SAMPLES, "steps": steps}
    gap, below = abs(agree - sample), mask - sample
    return {
        "samples": SAMPLES,
        "steps": steps,
        "agreement": agree,
        "reference": sample,
        "mask": mask,
        "gap": gap,
        "sample_below_mask": below,
    }


def _drawn(predictor: SamplePredictor, scan: Scan, queries: Queries) -> np.ndarray:
    """The samples (S, D, H, W), maps of value numbers on the scan's own grid."""
    values, queries = written_values(predictor.plan, queries), queries.with_tokens([scan.text])
    return value_table(values)[draw_masks(predictor, scan.image, scan.transform, queries, len(values))]


def _mean_dice(scores: Iterable[float | None]) -> float | None:
    """The mean of the Dice that are defined; None without one."""
    return mean(value for value in scores if value is not None)
