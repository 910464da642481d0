"""Tables for `mutations.py`: bugs that the tests must notice, and changes that no test can notice.

`before` must occur exactly once in its file. If the code changes, correct the entry.
"""

from typing import NamedTuple


class Known(NamedTuple):
    """A bug by name: `before` becomes `after`."""

    name: str
    file: str
    before: str
    after: str


class Excused(NamedTuple):
    """A drawn change that keeps the behaviour, or changes only texts or speed. Lines are as in the report."""

    file: str
    before: str
    after: str
    reason: str


KNOWN = (
    Known(
        "learning-rate schedule never applied",
        "textdiffseg/training/optimise.py",
        "rate = learning_rate(training, *state.position.schedule)",
        "rate = training.learning_rate",
    ),
    Known(
        "samples weigh their latents ten times too little",
        "textdiffseg/networks/label_latent.py",
        "alpha=PRECISION)",
        "alpha=0.1 * PRECISION)",
    ),
    Known(
        "white instead of smooth noise in training",
        "textdiffseg/training/objectives.py",
        "NOISY_LATENTS, draw=noise, device=device)",
        "NOISY_LATENTS, device=device)",
    ),
    Known(
        "scale of the latent without its variance",
        "textdiffseg/networks/label_latent.py",
        "(p * (1 - p)).clamp(min=0).sqrt()",
        "p.clamp(min=0).sqrt()",
    ),
    Known(
        "sampler trained on the last instead of the best weights",
        "textdiffseg/training/checkpoint.py",
        'best = _part(read_tensors(fold.checkpoint("best")), EMA)',
        "best = self.model.state_dict()",
    ),
    Known(
        "spread not applied to samples",
        "textdiffseg/segmenter.py",
        "self.network.spread if spread is None else spread",
        "torch.ones(()) if spread is None else spread",
    ),
    Known(
        "residual trained without its scale",
        "textdiffseg/training/objectives.py",
        "r_0 = posterior.residual(z_0)",
        "r_0 = z_0 - posterior.mean",
    ),
    Known(
        "factors trained on the mean instead of the likelihood of their draws",
        "textdiffseg/training/factor_likelihood.py",
        "(math.log(len(log_p)) - log_p.logsumexp(0)).mean()",
        "-log_p.mean()",
    ),
    Known(
        "denoiser trained around the mask instead of the likeliest draw",
        "textdiffseg/training/objectives.py",
        "sampler = likeliest(sampler, draws.factors, log_p)",
        "pass",
    ),
    Known(
        "all samples of a window with the first one's factors",
        "textdiffseg/inference/samples.py",
        "sampler.given(volume.factors[filled].to(self.device))",
        "sampler.given(volume.factors[filled[:1] * len(filled)].to(self.device))",
    ),
    Known(
        "one schedule of the learning rate for both stages",
        "textdiffseg/folds/position.py",
        "first, last = (split, self.total) if self.trains_sampler else (self.start.iteration, split)",
        "first, last = self.start.iteration, self.total",
    ),
    Known(
        "all weights learn in the denoiser's stage",
        "textdiffseg/training/checkpoint.py",
        "parameter.requires_grad_(name.startswith(SAMPLER) == position.trains_sampler)",
        "parameter.requires_grad_(position.trains_sampler or not name.startswith(SAMPLER))",
    ),
    Known(
        "a longer run trains the denoiser instead of the masks",
        "textdiffseg/training/loop.py",
        "state = setup.fresh(position)",
        "state = setup.fresh(saved)",
    ),
    Known(
        "raw instead of averaged weights validated",
        "textdiffseg/training/loop.py",
        "averaged.load_state_dict(state.ema)",
        "averaged.load_state_dict(state.model.state_dict())",
    ),
    Known(
        "best checkpoint is the last one",
        "textdiffseg/training/loop.py",
        'return improved or not setup.fold.checkpoint("best").is_file()',
        "return True",
    ),
    Known(
        "thin grids in bfloat16 on a CPU",
        "textdiffseg/precision.py",
        "1 < step >= size",
        "1 < step > size",
    ),
    Known(
        "no gradient clipping",
        "textdiffseg/training/optimise.py",
        "torch.nn.utils.clip_grad_norm_(state.model.parameters(), MAX_GRADIENT_NORM)",
        "torch.nn.utils.clip_grad_norm_(state.model.parameters(), math.inf)",
    ),
    Known(
        "no weight decay in Muon",
        "textdiffseg/training/optimisers.py",
        "torch._foreach_mul_(weights, 1 - rate * decay)",
        "pass",
    ),
    Known(
        "momentum 0.1",
        "textdiffseg/training/optimisers.py",
        "momentum: float = 0.9",
        "momentum: float = 0.1",
    ),
    Known(
        "log not cut after a kill",
        "textdiffseg/training/loop.py",
        " if epoch.iteration <= state.position.iteration]",
        "]",
    ),
    Known(
        "denoiser blind to t",
        "textdiffseg/networks/blocks.py",
        "angles = t.float()[:, None] * self.frequencies",
        "angles = 0 * t.float()[:, None] * self.frequencies",
    ),
    Known(
        "every window with the first window's noise",
        "textdiffseg/inference/predictor.py",
        "volume.noise[:, :, *tiling.latent_window(start)]",
        "volume.noise[:, :, *tiling.latent_window(tiling.starts[0])]",
    ),
    Known(
        "noise flipped under mirroring",
        "textdiffseg/inference/predictor.py",
        "segmenter.logits(mirrored_patches, mirrored_queries, z_T, self.steps, w)",
        "segmenter.logits(mirrored_patches, mirrored_queries, z_T.flip(-1), self.steps, w)",
    ),
    Known(
        "linear instead of cubic resampling",
        "textdiffseg/preprocessing/case.py",
        "resample(image, shape, 3, order_along, inside",
        "resample(image, shape, 1, order_along, inside",
    ),
    Known(
        "weights that are pickles are read",
        "textdiffseg/text/encoder.py",
        "use_safetensors=True,",
        "",
    ),
)

EXCUSED: tuple[Excused, ...] = (
    Excused(
        "textdiffseg/folds/weights.py",
        "reason = str(error).splitlines()[-1].strip()",
        "reason = str(error).splitlines()[-2].strip()",
        "which line of torch's message is quoted: words only",
    ),
    Excused(
        "textdiffseg/inference/tiling.py",
        "for before, padded, size in zip(self.before, self.padded, self.shape, strict=True)",
        "for before, padded, size in zip(self.before, self.padded, self.shape, strict=False)",
        "both have three axes",
    ),
    Excused(
        "textdiffseg/data/samples.py",
        "return Sample(image, labels, full_query(known), case, SampleKey(0, index), context_labels, overview=overview)",
        "return Sample(image, labels, full_query(known), case, SampleKey(1, index), context_labels, overview=overview)",
        "a validation patch's key is not read",
    ),
    Excused(
        "textdiffseg/data/samples.py",
        "rng = generator(self.seed, 0, index)",
        "rng = generator(self.seed, 1, index)",
        "another fixed place for the same validation patches",
    ),
    Excused(
        "textdiffseg/preprocessing/structures.py",
        "extent_mm=tuple(size * step for size, step in zip(mask.shape, spacing, strict=True)),",
        "extent_mm=tuple(size * step for size, step in zip(mask.shape, spacing, strict=False)),",
        "both have three axes",
    ),
    Excused(
        "textdiffseg/folds/weights.py",
        "reason = str(error).splitlines()[-1].strip()",
        "reason = str(error).splitlines()[+1].strip()",
        "which line of torch's message is quoted: words only",
    ),
    Excused(
        "textdiffseg/data/augment.py",
        "if all(axis.stop > axis.start for axis in inside):",
        "if all(axis.stop >= axis.start for axis in inside):",
        "an empty box copies nothing either way",
    ),
)
