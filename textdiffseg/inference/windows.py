"""The prediction of an image, and its assembly from groups of windows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plans.errors import UserError
from plans.geometry import Triple
from textdiffseg.inference.tiling import Tiling
from textdiffseg.queries import Queries
from textdiffseg.readout import Readout


@dataclass(frozen=True)
class Prediction:
    """The prediction of one image, on the plan's grid. Class 0 is background, and class q + 1 is slot q."""

    probabilities: Tensor  # (1 + Q, D, H, W) float32
    between_samples: Tensor | None = None  # (D, H, W) bits
    between_folds: Tensor | None = None  # (D, H, W) bits

    def of(self, answers: int, readout: Readout) -> "Prediction":
        """Keep the first `answers` classes; add the others to background."""
        return replace(self, probabilities=readout.answered(self.probabilities, answers, 0))

    def by_label(self, numbers: Sequence[int], labels: int) -> "Prediction":
        """The same prediction with classes 0..`labels` by label number. Labels that are not queried get 0.

        Args:
            numbers: the label number of each slot.
            labels: the number of labels.
        """
        if len(numbers) == labels:
            return self
        classes = [0, *numbers]
        probabilities = self.probabilities.new_zeros(1 + labels, *self.probabilities.shape[1:])
        probabilities[classes] = self.probabilities
        return replace(self, probabilities=probabilities)


@dataclass(frozen=True)
class WindowGroup:
    """The predictions of a group of B windows."""

    starts: tuple[Triple, ...]
    probabilities: Tensor  # (B, K, D, H, W)
    maps: Tensor | None = None  # (2, B, D, H, W) bits: between samples, between folds


@dataclass(frozen=True)
class WindowInputs:
    """The inputs that all windows of an image share."""

    tiling: Tiling
    image: Tensor  # (C, D, H, W), padded
    noise: Tensor  # (S, k, d, h, w): z_T of each sample
    queries: Queries  # of one sample, on the device
    answers: int  # leading slots that are kept for uncertainty
    uncertainty: bool
    importance: Tensor  # g (*patch)
    total: Tensor  # sum of g over the windows of each voxel

    def share(self, start: Triple) -> Tensor:
        """The share of a window at each of its voxels: g / sum g."""
        return self.importance / self.total[self.tiling.window(start)]


class WindowSums:
    """Sums over windows. Groups are added in their order in `Tiling.starts`."""

    def __init__(self, volume: WindowInputs):
        self.volume, self.tiling, self.added = volume, volume.tiling, 0
        self.probabilities = torch.zeros(1 + volume.queries.labels.shape[1], *self.tiling.padded)
        self.maps = torch.zeros(2, *self.tiling.padded) if volume.uncertainty else None

    def add(self, windows: WindowGroup) -> None:
        """Add one group. `UserError` if the network's output is not finite."""
        if not windows.probabilities.isfinite().all():
            raise UserError(
                "the network's output is not finite here, so there is no segmentation. Check the intensities of this "
                "scan; if other scans fail too, copy the model's folds again or train them again."
            )
        for b, start in enumerate(windows.starts):
            window, share = self.tiling.window(start), self.volume.share(start)
            self.probabilities[:, *window] += share * windows.probabilities[b]
            if self.maps is not None and windows.maps is not None:
                self.maps[:, *window] += share * windows.maps[:, b]
        self.added += 1

    def finish(self) -> Prediction:
        """The prediction of the volume without its padding."""
        inside = self.tiling.interior
        probabilities = self.probabilities[:, *inside].clamp_(max=1)  # shares sum to 1, apart from rounding
        if self.maps is None:
            return Prediction(probabilities)
        between_samples, between_folds = self.maps[:, *inside]
        return Prediction(probabilities, between_samples, between_folds)
