"""The Python API of prediction: an image on the plan's grid to probabilities.

    p = mean over folds, samples and mirrored views of softmax(logits),

put together from windows (`Segmenter.logits`, and `Readout.probabilities` in the place of softmax). Noise is a function
of (seed, sample, latent position in the whole volume), the same for all folds and not flipped under mirroring, so that
windows that share voxels share it.

Windows are computed in fixed groups of `batch` (the last one padded) and added up in one order, so that on the CPU
the result does not depend on the order in which the groups are computed, to the last bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from plans.errors import UserError
from plans.geometry import Triple, triple
from plans.layout import Checkpoint
from plans.plan import Plan
from textdiffseg.folds.ensemble import load_ensemble
from textdiffseg.folds.sampling import Settings, settings_of
from textdiffseg.inference.tiling import Tiling, importance, tile
from textdiffseg.inference.uncertainty import disagreement, slot_volumes
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.queries import Queries
from textdiffseg.randomness import torch_generator
from textdiffseg.readout import Readout, readout_of
from textdiffseg.segmenter import Segmenter

BATCH = 2  # windows computed together; with one, torch's CPU convolutions leave oneDNN and take three times as long


@dataclass(frozen=True)
class Prediction:
    """What is known of one image, on the plan's grid. Class 0 is background, class q + 1 the slot q asked for."""

    probabilities: Tensor  # (1 + Q, D, H, W) float32
    between_samples: Tensor | None = None  # (D, H, W) bits
    between_folds: Tensor | None = None  # (D, H, W) bits
    volumes: np.ndarray | None = None  # (F, S, 1 + answers) voxels that each class writes, by sample of each fold

    def of(self, answers: int, readout: Readout) -> "Prediction":
        """The first `answers` slots; what the others hold is background."""
        return replace(self, probabilities=readout.answered(self.probabilities, answers, 0))

    def by_label(self, numbers: Sequence[int], labels: int) -> "Prediction":
        """Classes 0..`labels` by label number, where slot q asked for numbers[q - 1]; 0 for labels not asked for."""
        if len(numbers) == labels:
            return self
        places = [0, *numbers]
        probabilities = self.probabilities.new_zeros(1 + labels, *self.probabilities.shape[1:])
        probabilities[places] = self.probabilities
        volumes = None
        if self.volumes is not None:
            volumes = np.zeros((*self.volumes.shape[:2], 1 + labels))
            volumes[..., places] = self.volumes
        return replace(self, probabilities=probabilities, volumes=volumes)


@dataclass(frozen=True)
class _Windows:
    """The outcome of one group of windows, B of them."""

    starts: tuple[Triple, ...]
    probabilities: Tensor  # (B, K, D, H, W)
    maps: Tensor | None = None  # (2, B, D, H, W) bits: between samples, between folds
    volumes: Tensor | None = None  # (F, S, K) float64


@dataclass(frozen=True)
class _Volume:
    """What all windows of one image share."""

    tiling: Tiling
    image: Tensor  # (C, D, H, W), padded
    noise: Tensor  # (S, k, d, h, w): z_T of each sample
    queries: Queries  # of one sample, on the device
    answers: int  # slots that uncertainty is told of
    uncertainty: bool
    importance: Tensor  # g of a voxel in its window
    total: Tensor  # sum of g over the windows of a voxel

    def share(self, start: Triple) -> Tensor:
        """What a window's voxels weigh among all windows that hold them, g / sum g."""
        return self.importance / self.total[self.tiling.window(start)]


class Predictor:
    """Predicts with one or more folds of a model."""

    def __init__(
        self,
        networks: Sequence[SegmentationNetwork],
        settings: Settings,
        device: torch.device | str = "cpu",
        batch: int = BATCH,
    ):
        self.networks = tuple(networks)
        self.plan: Plan = networks[0].plan
        self.readout = readout_of(self.plan)
        self.settings = settings
        self.device = torch.device(device)
        self.batch = batch
        self.segmenters = tuple(Segmenter.of(network, self.device) for network in networks)
        if self.plan.diffusion is None and (settings.steps, settings.samples) != (1, 1):
            raise ValueError(f"preset {self.plan.preset} has no diffusion: steps and samples must be 1")

    @classmethod
    def from_folder(
        cls, folder: Path, folds: Sequence[str] | None = None, checkpoint: Checkpoint = "best", device: str = "cpu"
    ) -> "Predictor":
        """The trained folds of a model with the settings that validation chose."""
        ensemble = load_ensemble(Path(folder), folds, checkpoint, device)
        return cls(ensemble.networks, settings_of(ensemble.plan, ensemble.sampling), device)

    def windows(self, shape: Triple) -> int:
        """How many windows an image of this shape (D, H, W) on the plan's grid has."""
        return len(tile(shape, self.plan.patch, self.plan.latent_stride, self.settings.overlap).starts)

    @torch.inference_mode()
    def predict_image(
        self,
        image: Tensor,
        queries: Queries,
        uncertainty: bool = False,
        answers: int | None = None,
        order: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Prediction:
        """image (C, D, H, W) on the plan's grid, queries of one sample -> probabilities (1 + Q, D, H, W).

        With `answers` uncertainty is that of the first so many slots: what the others win counts as background.
        `order` is the order in which groups of windows are computed; `progress` is told (groups done, groups).
        """
        tiling = tile(triple(image.shape[1:]), self.plan.patch, self.plan.latent_stride, self.settings.overlap)
        groups = [tiling.starts[i : i + self.batch] for i in range(0, len(tiling.starts), self.batch)]
        volume = _Volume(
            tiling=tiling,
            image=tiling.pad(image.float()),
            noise=self._noise(tiling),
            queries=queries.to(self.device),
            answers=queries.labels.shape[1] if answers is None else answers,
            uncertainty=uncertainty,
            importance=importance(tiling.patch),
            total=tiling.total_importance(),
        )
        sums, early = _Sums(volume), {}
        for done, index in enumerate(range(len(groups)) if order is None else order, start=1):
            early[index] = self._compute(volume, groups[index])
            while sums.added in early:
                sums.add(early.pop(sums.added))
            if progress:
                progress(done, len(groups))
        return sums.finish()

    def _noise(self, tiling: Tiling) -> Tensor:
        """z_T of each sample over the whole latent grid: (S, k, d, h, w)."""
        shape = (self.plan.latent.channels, *tiling.latent_shape)
        if self.plan.diffusion is None:
            return torch.zeros(1, *shape)
        return torch.stack([latent_noise(shape, self.settings.seed, s) for s in range(self.settings.samples)])

    def _compute(self, volume: _Volume, starts: tuple[Triple, ...]) -> _Windows:
        """All folds and samples of one group of windows."""
        tiling, kept, readout = volume.tiling, volume.answers, self.readout
        filled = (*starts, *(starts[-1],) * (self.batch - len(starts)))
        patches = torch.stack([volume.image[:, *tiling.window(start)] for start in filled]).to(self.device)
        z_T = torch.stack([volume.noise[:, :, *tiling.latent_window(start)] for start in filled], dim=1)
        z_T, queries = z_T.to(self.device), volume.queries.expand(self.batch)
        of_folds, inner, volumes = [], [], []
        for segmenter in self.segmenters:
            p = self._fold(segmenter, patches, z_T, queries)[:, : len(starts)]  # (S, B, K, D, H, W)
            of_folds.append(p.mean(0))
            if volume.uncertainty:
                inner.append(torch.stack([readout.entropy(readout.answered(one, kept, 1), 1) for one in p]).mean(0))
                shares = [volume.share(start).to(self.device) for start in starts]
                by_window = [
                    [slot_volumes(readout.winner(one[b]), share, kept) for one in p] for b, share in enumerate(shares)
                ]
                volumes.append(torch.stack([torch.stack(of_samples) for of_samples in by_window]).sum(0))
        means = torch.stack(of_folds)
        del of_folds  # as large as `means`, and memory is short
        if not volume.uncertainty:
            return _Windows(starts, means.mean(0).cpu())
        maps = disagreement(readout.answered(means, kept, 2), torch.stack(inner), readout)
        return _Windows(starts, means.mean(0).cpu(), torch.stack(maps).cpu(), torch.stack(volumes).cpu())

    def _fold(self, segmenter: Segmenter, patches: Tensor, z_T: Tensor, queries: Queries) -> Tensor:
        """One fold's probabilities of each sample, the mean over mirrored views: (S, B, K, D, H, W) float32."""
        views = subsets(self.settings.mirror_axes)
        total: Tensor | None = None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            for axes in views:
                dims = tuple(axis + 2 for axis in axes)
                samples = segmenter.logits(patches.flip(dims), queries, z_T, self.settings.steps)
                for s, logits in enumerate(samples):
                    finite = logits.isfinite().all()  # stays on the device, which is not waited for
                    p = self.readout.probabilities(logits).flip(dims).where(finite, torch.nan)
                    total = torch.zeros(len(z_T), *p.shape, device=p.device) if total is None else total
                    total[s] += p
        assert total is not None, "there is at least one view, and one sample of it"
        return total.div_(len(views))


class _Sums:
    """Running sums over windows, added in canonical order."""

    def __init__(self, volume: _Volume):
        self.volume, self.tiling, self.added = volume, volume.tiling, 0
        self.probabilities = torch.zeros(1 + volume.queries.labels.shape[1], *self.tiling.padded)
        self.maps = torch.zeros(2, *self.tiling.padded) if volume.uncertainty else None
        self.volumes = torch.zeros((), dtype=torch.float64)

    def add(self, windows: _Windows) -> None:
        """Add one group. `UserError` where the network put out numbers that are not finite."""
        if not windows.probabilities.isfinite().all():
            raise UserError(
                "the network's output is not finite here, so there is no segmentation. Check the intensities of this "
                "scan; if other scans fail too, copy the model's folds again or train them anew."
            )
        for b, start in enumerate(windows.starts):
            window, share = self.tiling.window(start), self.volume.share(start)
            self.probabilities[:, *window] += share * windows.probabilities[b]
            if self.maps is not None and windows.maps is not None:
                self.maps[:, *window] += share * windows.maps[:, b]
        if windows.volumes is not None:
            self.volumes = self.volumes + windows.volumes
        self.added += 1

    def finish(self) -> Prediction:
        """The volume without its padding."""
        inside = self.tiling.interior
        probabilities = self.probabilities[:, *inside].clamp_(max=1)  # shares add up to one but for rounding
        if self.maps is None:
            return Prediction(probabilities)
        between_samples, between_folds = self.maps[:, *inside]
        return Prediction(probabilities, between_samples, between_folds, self.volumes.numpy())


def latent_noise(shape: tuple[int, ...], seed: int, sample_index: int) -> Tensor:
    """Standard normal noise (k, d, h, w), drawn on the CPU whatever the device."""
    return torch.randn(shape, generator=torch_generator(seed, sample_index))


def subsets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All subsets of `axes`, the empty one first: the views that mirroring averages."""
    ordered = sorted(axes)
    return list(chain.from_iterable(combinations(ordered, size) for size in range(len(ordered) + 1)))
