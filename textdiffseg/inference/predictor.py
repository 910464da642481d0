"""Prediction of probabilities from an image on the plan's grid:

    p = mean over folds, samples and mirrored views of softmax(logits),

averaged over overlapping windows. For overlapping labels, `Readout.probabilities` replaces softmax.

Noise is a function of (seed, sample, latent position in the whole volume). It is the same for all folds and views, and
overlapping windows share it. So are the common factors of a sample, which do not depend on the position.

Windows are computed in fixed groups of `batch`; the last group is padded. The groups are added in a fixed order. On
the CPU, the result is thus bitwise independent of the order in which they are computed.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations
from typing import Self

import torch
from torch import Tensor

from plans.errors import UserError
from plans.geometry import Triple, triple
from plans.plan import Plan
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.region import Region
from textdiffseg.inference.room import DeviceRoom
from textdiffseg.inference.tiling import Tiling, tile
from textdiffseg.inference.uncertainty import disagreement
from textdiffseg.inference.windows import (
    FINITE_AT,
    Prediction,
    Slab,
    WindowGroup,
    WindowInputs,
    joined,
)
from textdiffseg.networks.model import SegmentationNetwork, can_sample
from textdiffseg.overview import reduced
from textdiffseg.precision import gpu_has_bfloat16
from textdiffseg.progress import StepProgress
from textdiffseg.queries import Queries
from textdiffseg.randomness import Stream, torch_generator
from textdiffseg.readout import readout_of
from textdiffseg.segmenter import Segmenter
from textdiffseg.transfer import send

UNTRAINED = (
    "A fold of this model has no samples yet: its sampler learns in the last epochs, and a run of one epoch has none. "
    "Train the fold to the end, or longer, or choose other --folds. Or leave out --steps, --samples, --uncertainty and "
    "--alternatives."
)


class Predictor:
    """One or more folds of a model with sampling settings. It predicts images on the plan's grid."""

    def __init__(
        self,
        networks: Sequence[SegmentationNetwork],
        settings: PredictionSettings,
        device: torch.device | str = "cpu",
        batch: int | None = None,
        segmenters: Sequence[Segmenter] | None = None,
    ):
        """`batch`: windows that are computed together; None: what the device allows.

        `segmenters`: those of the networks, if torch does not compute masks; None: torch does.
        """
        self.networks = tuple(networks)
        self.plan: Plan = networks[0].plan
        self.readout = readout_of(self.plan)
        self.settings = settings
        self.device = torch.device(device)
        self.region: Region | None = None  # only windows that touch it are computed; None: all
        self.room = DeviceRoom(self.plan, self.device, batch)
        self.steps = settings.steps or self.plan.mask_steps
        self.segmenters = tuple(segmenters or (Segmenter.of(network, self.device) for network in networks))
        if self.plan.sample_steps is None and (settings.steps, settings.samples) != (0, 1):
            raise ValueError(f"preset {self.plan.preset} has no diffusion: steps must be 0 and samples 1")
        if settings.steps and not can_sample(self.networks):
            raise UserError(UNTRAINED)

    def near(self, region: Region) -> Self:
        """The same predictor for one image: it computes only the windows that touch a region of the image."""
        near = copy.copy(self)
        near.region = region
        return near

    def windows(self, shape: Triple) -> int:
        """The number of windows of an image of this shape (D, H, W) on the plan's grid."""
        return len(self._tiling(shape).starts)

    def slab_voxels(self, shape: Triple) -> int:
        """The voxels in the sums over windows of an image of this shape (D, H, W) on the plan's grid."""
        return self._tiling(shape).slab_voxels

    def _tiling(self, shape: Triple) -> Tiling:
        tiling = tile(shape, self.plan.patch, self.plan.latent_stride, self.settings.overlap)
        return tiling.near(self.region)

    def predict_image(
        self,
        image: Tensor,
        queries: Queries,
        uncertainty: bool = False,
        n_answers: int | None = None,
        order: Sequence[int] | None = None,
        progress: StepProgress | None = None,
    ) -> Prediction:
        """The prediction of a whole image: probabilities (1 + Q, D, H, W), and uncertainty on request.

        It needs memory for all classes of all voxels. The arguments are those of `predict_slabs`.
        """
        slabs = self.predict_slabs(image, queries, uncertainty, n_answers, order, progress)
        return joined(slabs, triple(image.shape[1:]))

    @torch.inference_mode()
    def predict_slabs(
        self,
        image: Tensor,
        queries: Queries,
        uncertainty: bool = False,
        n_answers: int | None = None,
        order: Sequence[int] | None = None,
        progress: StepProgress | None = None,
    ) -> Iterator[Slab]:
        """The prediction of an image, slab by slab along D. Only sums over one patch along D are kept.

        Raises `UserError` if the network's output is not finite.

        Args:
            image: (C, D, H, W) on the plan's grid.
            queries: of one sample, with Q slots.
            uncertainty: predict `between_samples` and `between_folds`, too.
            n_answers: the first slots, which uncertainty keeps; others count as background. None: all slots.
            order: the order in which groups of windows are computed; None: from first to last.
            progress: called with (groups done, all groups).
        """
        if n_answers is None:
            n_answers = queries.labels.shape[1]
        volume = self._inputs(image, queries, range(self.settings.samples), n_answers, uncertainty)
        groups = self._groups(volume.tiling)
        (sums,) = self.room.sums(volume, 1)
        added = 0
        waiting: dict[int, list[WindowGroup]] = {}  # computed groups that wait for earlier ones, by index
        for done, index in enumerate(range(len(groups)) if order is None else order, start=1):
            waiting[index] = self.room.compute(lambda starts: self._compute(volume, starts), groups[index], [sums])
            while added in waiting:
                for group in waiting.pop(added):
                    yield from sums.add(group)
                added += 1
            if progress:
                progress(done, len(groups))
        yield from sums.finish()

    def _inputs(
        self, image: Tensor, queries: Queries, numbers: Sequence[int], n_answers: int, uncertainty: bool
    ) -> WindowInputs:
        """What all windows of an image share. `numbers` are those of the diffusion samples."""
        tiling, overview = self._tiling(triple(image.shape[1:])), self.plan.overview
        return WindowInputs(
            tiling=tiling,
            image=tiling.pad(image.float()),
            noise=self._noise(tiling, numbers),
            factors=self._factors(numbers),
            queries=queries.to(self.device),
            n_answers=n_answers,
            uncertainty=uncertainty,
            overview=reduced(image, overview.edge)[None].to(self.device) if overview else None,
        )

    def _groups(self, tiling: Tiling) -> list[tuple[Triple, ...]]:
        """The first voxels of the windows, in groups of `batch`."""
        return [tiling.starts[i : i + self.room.windows] for i in range(0, len(tiling.starts), self.room.windows)]

    def _noise(self, tiling: Tiling, numbers: Sequence[int]) -> Tensor:
        """z_T (S, k, d, h, w) of the diffusion samples with these numbers over the whole latent grid."""
        shape = (self.plan.latent.channels, *tiling.latent_shape)
        if self.steps == 0:  # not read
            return torch.zeros(1).expand(1, *shape)
        schedule = self.segmenters[0].schedule
        assert schedule is not None, "expected a model with diffusion"
        return torch.stack([schedule.noise(shape, torch_generator(self.settings.seed, number)) for number in numbers])

    def _factors(self, numbers: Sequence[int]) -> Tensor:
        """The common factors w (S, R) of the diffusion samples with these numbers, the same in all windows.

        Samples 2i and 2i + 1 have the opposite factors of each other (antithetic). So few samples are balanced.
        """
        key = Stream.FACTORS, self.settings.seed
        count = max(network.plan.n_factors for network in self.networks)  # older folds have none
        pairs = [torch.randn(count, generator=torch_generator(*key, number // 2)) for number in numbers]
        signs = torch.tensor([1.0 - 2 * (number % 2) for number in numbers])
        return torch.stack(pairs) * signs.unsqueeze(1)

    def _group_inputs(self, volume: WindowInputs, starts: tuple[Triple, ...]) -> tuple[Tensor, Tensor, Queries]:
        """The patches, z_T and queries of a group of windows, on the device. The last window fills up the group."""
        tiling = volume.tiling
        filled = (*starts, *(starts[-1],) * (self.room.filled(len(starts)) - len(starts)))
        patches = send(torch.stack([volume.image[:, *tiling.window(start)] for start in filled]), self.device)
        queries = self._queries(volume, filled)
        if self.steps == 0:
            return patches, torch.empty(0), queries  # the mask reads no noise
        z_T = torch.stack([volume.noise[:, :, *tiling.latent_window(start)] for start in filled], dim=1)
        return patches, send(z_T, self.device), queries

    def _queries(self, volume: WindowInputs, starts: Sequence[Triple]) -> Queries:
        """The queries of each window, with the overview of the scan if the model reads it."""
        overview = volume.overviews(starts, self.plan.overview.cells) if self.plan.overview else None
        return replace(volume.queries.expand(len(starts)), overview=overview)

    def _compute(self, volume: WindowInputs, starts: tuple[Triple, ...]) -> WindowGroup:
        """The predictions of one group of windows with all folds and samples."""
        n_answers, readout = volume.n_answers, self.readout
        patches, z_T, queries = self._group_inputs(volume, starts)
        means_of_folds, sample_entropies = [], []
        for segmenter in self.segmenters:
            p = self._probabilities_of_fold(segmenter, patches, z_T, volume.factors, queries)  # (S, B, K, D, H, W)
            p = p[:, : len(starts)]
            means_of_folds.append(_mean(p))
            if volume.uncertainty:
                kept = [readout.keep_first(p_s, n_answers, 1) for p_s in p]
                sample_entropies.append(torch.stack([readout.entropy(p_s, 1) for p_s in kept]).mean(0))
            del p
        fold_means = _stacked(means_of_folds)
        del means_of_folds  # as large as `fold_means`: it frees memory
        if not volume.uncertainty:
            return WindowGroup(starts, _mean(fold_means))
        maps = disagreement(readout.keep_first(fold_means, n_answers, 2), torch.stack(sample_entropies), readout)
        return WindowGroup(starts, _mean(fold_means), torch.stack(maps))

    def _autocast(self) -> torch.autocast:
        """A context with bfloat16 on a GPU that has it in hardware."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=gpu_has_bfloat16(self.device))

    def _probabilities(self, logits: Tensor, mirrored: tuple[int, ...] = ()) -> Tensor:
        """The probabilities (B, K, D, H, W) of logits, which it overwrites. It undoes the mirroring of axes.

        `FINITE_AT` is NaN if a logit is not finite, as `SlabSums` reads this voxel.
        """
        finite = logits.sum().isfinite()  # ten times faster than a test of each number
        p = self.readout.probabilities_in_place(logits)
        p = p.flip(mirrored) if mirrored else p
        p[:, *FINITE_AT].masked_fill_(~finite, torch.nan)
        return p

    def _probabilities_of_fold(
        self, segmenter: Segmenter, patches: Tensor, z_T: Tensor, factors: Tensor, queries: Queries
    ) -> Tensor:
        """One fold's probabilities (S, B, K, D, H, W) float32 of each sample, averaged over mirrored views.

        `z_T` (S, B, k, d, h, w) and `factors` (S, R) are those of the samples.
        """
        views, w = subsets(self.settings.mirror_axes), send(factors, self.device)
        sums: list[Tensor] = []  # over views, one per sample
        with self._autocast():
            for axes in views:
                dims = tuple(axis + 2 for axis in axes)
                mirrored_patches = patches.flip(dims) if dims else patches
                overview = None if queries.overview is None else queries.overview.flip(axes)
                mirrored_queries = replace(queries, overview=overview)
                samples = segmenter.logits(mirrored_patches, mirrored_queries, z_T, self.steps, w)
                for s, logits in enumerate(samples):
                    p = self._probabilities(logits, dims)
                    if s == len(sums):
                        sums.append(p)
                    else:
                        sums[s] += p
        total = _stacked(sums)
        return total if len(views) == 1 else total.div_(len(views))


def _stacked(tensors: list[Tensor]) -> Tensor:
    """The tensors (T, ...), without a copy of a single one."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors)


def _mean(tensor: Tensor) -> Tensor:
    """The mean over the first axis, without a copy of a single item."""
    return tensor[0] if len(tensor) == 1 else tensor.mean(0)


def subsets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All subsets of `axes`, the empty one first. Each is a view that mirroring averages."""
    ordered = sorted(axes)
    return list(chain.from_iterable(combinations(ordered, size) for size in range(len(ordered) + 1)))
