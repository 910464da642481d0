"""`SamplePredictor`: single diffusion samples of an image, for alternatives. Its windows are sampled in turn.

    r_t = a_t r + sigma_t eps     where an earlier window has drawn r, with new eps at each step (diffusion/ddim.py)

So a window continues what its neighbours have drawn, and a structure that is longer than a window keeps one meaning.
r lies on one latent grid of the scan. Each window adds it to its own mask: z = m + tau s r (segmenter.py).

All windows of a sample have the same common factors (networks/common_factors.py).

The usual way is to denoise all windows at the same time, and to average their estimates at each step (MultiDiffusion,
Bar-Tal et al. 2023). Then distant windows decide at the same noise level, and later steps seldom move the border
between two decisions (benchmarks/bead_windows.py).

Memory: r of the samples that are drawn at once, on the host, as much as their noise. The number of passes is that of
windows apart. The windows have one order; so there is no other one that could change the result.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from plans.geometry import Triple
from textdiffseg.diffusion.ddim import Known
from textdiffseg.folds.sampling import PredictionSettings
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.tiling import Tiling
from textdiffseg.inference.windows import Slab, WindowGroup, WindowInputs
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.progress import StepProgress
from textdiffseg.queries import Queries
from textdiffseg.randomness import torch_generator
from textdiffseg.segmenter import Segmenter


class DrawnLatents:
    """r of the samples of an image, on its latent grid, and where it is drawn."""

    def __init__(self, volume: WindowInputs):
        self.tiling: Tiling = volume.tiling
        self.r = torch.zeros_like(volume.noise)  # (S, k, d, h, w)
        self.drawn = torch.zeros(volume.tiling.latent_shape, dtype=torch.bool)

    def known(self, indices: Sequence[int], start: Triple, noise: Sequence[Tensor]) -> Known | None:
        """What is drawn in a window, of the samples with these `indices`; None: nothing. `noise`: of each step."""
        window, device = self.tiling.latent_window(start), noise[0].device
        where = self.drawn[window]
        return Known(self.r[:, :, *window][indices].to(device), where.to(device), noise) if where.any() else None

    def keep(self, r: Tensor, start: Triple) -> None:
        """Keep r (S, k, d, h, w) of a window."""
        window = self.tiling.latent_window(start)
        self.r[:, :, *window] = r
        self.drawn[window] = True


class SamplePredictor(Predictor):
    """One or more folds of a model that draw single samples: samples 2s and 2s + 1 with fold s modulo F.

    A mean over folds would blend the alternatives of different folds.
    """

    def __init__(
        self,
        networks: Sequence[SegmentationNetwork],
        settings: PredictionSettings,
        device: torch.device | str = "cpu",
    ):
        """Raises `ValueError` for mirrored views. Noise is not mirrored, so they would be other samples."""
        super().__init__(networks, settings, device)
        if settings.mirror_axes:
            raise ValueError(f"samples are not mirrored: expected no axes, found {settings.mirror_axes}")
        # Windows continue each other. Those of preset `paper` do not: each standardises its own latent.
        self.in_turn = self.plan.diffusion is not None

    @torch.inference_mode()
    def sample_slabs(
        self,
        image: Tensor,
        queries: Queries,
        numbers: Sequence[int],
        progress: StepProgress | None = None,
    ) -> Iterator[tuple[Slab, ...]]:
        """The samples of an image, slab by slab along D. Raises `UserError` if the network's output is not finite.

        Args:
            image: (C, D, H, W) on the plan's grid.
            queries: of one sample, with Q slots.
            numbers: of the samples.
            progress: called with (groups of windows done, all groups).
        """
        volume = self._inputs(image, queries, numbers, queries.labels.shape[1], False)
        if self.in_turn:
            groups: list[tuple[Triple, ...]] = [(start,) for start in volume.tiling.starts]
            draw = partial(self._draw_in_turn, volume, DrawnLatents(volume), numbers)
        else:
            groups = self._groups(volume.tiling)
            draw = partial(self._draw, volume, numbers)
        sums = self.room.sums(volume, len(numbers))
        for done, starts in enumerate(groups, start=1):
            for of_samples in self.room.compute(draw, starts, sums):
                slabs = [of_sample.add(group) for of_sample, group in zip(sums, of_samples, strict=True)]
                yield from zip(*slabs, strict=True)
            if progress:
                progress(done, len(groups))
        yield from zip(*(of_sample.finish() for of_sample in sums), strict=True)

    def _draw(self, volume: WindowInputs, numbers: Sequence[int], starts: tuple[Triple, ...]) -> list[WindowGroup]:
        """The predictions of one group of windows for each sample."""
        patches, z_T, queries = self._group_inputs(volume, starts)
        predictions: dict[int, Tensor] = {}
        for segmenter, indices in self._folds(numbers):
            p = self._probabilities_of_fold(segmenter, patches, z_T[indices], volume.factors[indices], queries)
            predictions |= zip(indices, p, strict=True)
        return [WindowGroup(starts, predictions[index][: len(starts)]) for index in range(len(numbers))]

    def fold_of(self, number: int) -> int:
        """The fold that draws a sample. Pairs with opposite factors are drawn with the same fold."""
        return number // 2 % len(self.segmenters)

    def _folds(self, numbers: Sequence[int]) -> Iterator[tuple[Segmenter, list[int]]]:
        """Each fold that draws some of the samples, with their places in `numbers`."""
        for fold, segmenter in enumerate(self.segmenters):
            indices = [index for index, number in enumerate(numbers) if self.fold_of(number) == fold]
            if indices:
                yield segmenter, indices

    def _draw_in_turn(
        self, volume: WindowInputs, drawn: DrawnLatents, numbers: Sequence[int], starts: tuple[Triple, ...]
    ) -> list[WindowGroup]:
        """The predictions of one window for each sample. Its r is kept for the windows that follow."""
        (start,) = starts
        patch = volume.image[:, *volume.tiling.window(start)].to(self.device)
        noise = volume.noise[:, :, *volume.tiling.latent_window(start)]
        fresh = self._fresh_noise(volume.tiling, start)
        r = torch.empty_like(noise)
        predictions: dict[int, Tensor] = {}
        for segmenter, indices in self._folds(numbers):
            count = self.room.windows if self.device.type == "cpu" else min(self.room.windows, len(indices))
            with self._autocast():
                sampler = segmenter.mask_sampler(torch.stack([patch] * count), self._queries(volume, [start] * count))
                for first in range(0, len(indices), count):
                    batch = indices[first : first + count]
                    filled = [*batch, *batch[-1:] * (count - len(batch))]
                    r_T = noise[filled].to(self.device)
                    version = sampler.given(volume.factors[filled].to(self.device))
                    r_0 = version.sample(r_T, self.steps, drawn.known(filled, start, [r_T, *fresh]))
                    p = self._probabilities(version.decode(r_0))
                    for row, index in enumerate(batch):
                        r[index] = r_0[row]
                        predictions[index] = p[row : row + 1]
                    del version, p  # before the next one: with many labels they are most of a window's memory
        drawn.keep(r, start)
        return [WindowGroup(starts, predictions[index]) for index in range(len(numbers))]

    def _fresh_noise(self, tiling: Tiling, start: Triple) -> Tensor:
        """Noise (steps - 1, k, d, h, w) of a window for the known part of r after the first step; none without one.

        It depends on the seed and the window. All samples share it, which saves time on a GPU.
        """
        index, schedule = tiling.starts.index(start), self.segmenters[0].schedule
        assert schedule is not None, "expected a model with diffusion"
        shape = self.plan.latent.channels, *self.plan.latent_shape
        steps = range(1, self.steps if index else 1)
        noise = [schedule.noise(shape, torch_generator(self.settings.seed, index, step)) for step in steps]
        return torch.stack(noise).to(self.device) if noise else torch.empty(0, device=self.device)
