"""The prediction of an image, and its sums over windows.

Sums hold one patch along the first axis, D. When the windows move on along D, the planes behind them are complete, and
leave as slabs. So the memory of sums depends on labels, patch, H and W, but not on the length of the scan.

A tiling may lack windows. A voxel in no window is background with probability 1, and its uncertainty is 0.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from plans.errors import UserError
from plans.geometry import Triple
from plans.planning.scan_memory import bytes_per_sum, slab_bytes
from textdiffseg.inference.tiling import Tiling, importance
from textdiffseg.overview import Overview, cell_offsets
from textdiffseg.queries import Queries
from textdiffseg.readout import Readout
from textdiffseg.resources import is_out_of_memory

Of = TypeVar("Of")
FINITE_AT = (0, 0, 0, 0)  # the class and voxel of a window's probabilities that tells whether its output is finite
NOT_FINITE = (
    "the network's output is not finite here, so there is no segmentation. Check the intensities of this scan; if "
    "other scans fail too, copy the model's folds again or train them again."
)


@dataclass(frozen=True)
class Prediction:
    """The prediction of an image or a slab, on the plan's grid. Class 0 is background, and class q + 1 is slot q."""

    probabilities: Tensor  # (1 + Q, D, H, W) float32
    between_samples: Tensor | None = None  # (D, H, W) bits
    between_folds: Tensor | None = None  # (D, H, W) bits

    def keep_answers(self, n_answers: int, readout: Readout) -> "Prediction":
        """Keep background and the answers, the first slots. The other slots count as background."""
        return replace(self, probabilities=readout.keep_first(self.probabilities, n_answers, 0))


@dataclass(frozen=True)
class Slab:
    """Consecutive planes of a prediction, along D."""

    first: int  # plane of the volume
    prediction: Prediction


def joined(slabs: Iterable[Slab], shape: Triple) -> Prediction:
    """The prediction of a whole volume (D, H, W), from its slabs."""
    probabilities, maps = None, []
    for slab in slabs:
        prediction = slab.prediction
        planes = slice(slab.first, slab.first + prediction.probabilities.shape[1])
        if probabilities is None:
            probabilities = torch.empty(len(prediction.probabilities), *shape)
            maps = [torch.empty(shape) for _ in _maps(prediction)]
        probabilities[:, planes] = prediction.probabilities
        for whole_map, slab_map in zip(maps, _maps(prediction), strict=True):
            whole_map[planes] = slab_map
    assert probabilities is not None, "expected at least one slab"
    return Prediction(probabilities, *maps)


def _maps(prediction: Prediction) -> list[Tensor]:
    return [map_ for map_ in (prediction.between_samples, prediction.between_folds) if map_ is not None]


@dataclass(frozen=True)
class WindowGroup:
    """The predictions of a group of B windows. `FINITE_AT` is NaN where the network's output is not finite."""

    starts: tuple[Triple, ...]
    probabilities: Tensor  # (B, K, D, H, W)
    maps: Tensor | None = None  # (2, B, D, H, W) bits: between samples, between folds


@dataclass(frozen=True)
class WindowInputs:
    """The inputs that all windows of an image share."""

    tiling: Tiling
    image: Tensor  # (C, D, H, W), padded
    noise: Tensor  # (S, k, d, h, w): z_T of each sample
    factors: Tensor  # (S, R): the common factors of each sample
    queries: Queries  # of one sample, on the device
    n_answers: int  # the first slots, which are kept for uncertainty
    uncertainty: bool
    overview: Tensor | None = None  # (1, C, e, e, e): the scan at low resolution, on the device, if the model reads it

    def overviews(self, starts: Sequence[Triple], cells: int) -> Overview:
        """The overviews of the windows at `starts`, with `cells` tokens along each axis."""
        assert self.overview is not None, "expected an overview"
        tiling, device = self.tiling, self.overview.device
        where = [cell_offsets(tiling.shape, tiling.in_volume(start), tiling.patch, cells) for start in starts]
        image = self.overview.expand(len(starts), *self.overview.shape[1:])
        known = torch.ones(len(starts), dtype=torch.bool, device=device)
        return Overview(image, torch.stack(where).to(device), known)

    @property
    def classes(self) -> int:
        """Background and slots."""
        return 1 + self.queries.labels.shape[1]


class SlabSums:
    """Sums of g p and of g over the windows (`tiling`). Windows are added in their order in `Tiling.starts`."""

    def __init__(self, volume: WindowInputs, device: torch.device | str = "cpu"):
        tiling = self.tiling = volume.tiling
        shape = tiling.patch[0], *tiling.padded[1:]
        kind = torch.float32 if bytes_per_sum(volume.classes, tiling.slab_voxels) == 4 else torch.float16
        self.weight = importance(tiling.patch).to(device)
        self.probabilities = torch.zeros(volume.classes, *shape, dtype=kind, device=device)
        self.maps = torch.zeros(2, *shape, device=device) if volume.uncertainty else None
        self.total = torch.zeros(shape, device=device)
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self.top = 0  # the plane of the padded volume that is the first one of the sums

    def to(self, device: torch.device | str) -> None:
        """Move the sums to another device."""
        self.weight, self.probabilities, self.total, self.finite = (
            tensor.to(device) for tensor in (self.weight, self.probabilities, self.total, self.finite)
        )
        self.maps = None if self.maps is None else self.maps.to(device)

    @property
    def on_host(self) -> bool:
        """Whether the sums lie in the host's memory."""
        return self.total.device.type == "cpu"

    def add(self, windows: WindowGroup) -> Iterator[Slab]:
        """Add one group, and yield the slabs that are complete before it. `UserError` for output that is not finite."""
        found = windows.probabilities[:, *FINITE_AT]
        self.finite &= found.isfinite().all().to(self.total.device)  # read later, so that the host does not wait
        for b, start in enumerate(windows.starts):
            if start[0] > self.top:
                yield from self._leave(start[0])
            self._or_on_host(partial(self._add, windows, b))

    def _add(self, windows: WindowGroup, b: int) -> None:
        """Add window b of a group. What needs memory comes first, so that it can be called again."""
        device, kind = self.total.device, self.probabilities.dtype
        p, weight = windows.probabilities[b].to(device, kind), self.weight.to(kind)
        maps = None if windows.maps is None else windows.maps[:, b].to(device)
        window = (slice(None), *self.tiling.window(windows.starts[b])[1:])  # the sums begin where the window does
        self.total[window] += self.weight
        self.probabilities[:, *window].addcmul_(weight, p)
        if self.maps is not None and maps is not None:
            self.maps[:, *window].addcmul_(self.weight, maps)

    def _or_on_host(self, compute: Callable[[], Of]) -> Of:
        """What `compute` returns. If the device's memory runs out, the sums move to the host, and it runs again."""
        try:
            return compute()
        except RuntimeError as error:
            if self.on_host or not is_out_of_memory(error):
                raise
        self.to("cpu")  # outside `except`, which keeps the failed call's tensors alive
        torch.cuda.empty_cache()
        return compute()

    def finish(self) -> Iterator[Slab]:
        """Yield the slabs that are left after the last window."""
        return self._leave(self.tiling.padded[0])

    def _leave(self, top: int) -> Iterator[Slab]:
        """Yield the planes before `top`, and move the sums there. Where windows are missing, it is further than one."""
        if not self.finite:
            raise UserError(NOT_FINITE)
        while self.top < top:
            yield from self._move(min(top, self.top + self.tiling.patch[0]))

    def _move(self, top: int) -> Iterator[Slab]:
        """Yield the planes before `top`, at most one patch further, and move the sums there."""
        count = top - self.top
        yield from self._slabs(count)
        for tensor in (self.probabilities, self.total[None], *([] if self.maps is None else [self.maps])):
            depth = tensor.shape[1]
            for plane in range(depth):  # one by one, as the planes to move and their new places may overlap
                tensor[:, plane] = tensor[:, plane + count] if plane + count < depth else 0
        self.top = top

    def _slabs(self, count: int) -> Iterator[Slab]:
        """The first `count` planes of the sums, without the volume's padding."""
        planes = self.tiling.interior[0]
        first, last = max(self.top, planes.start), min(self.top + count, planes.stop)
        classes, plane = len(self.probabilities), self.total[0].numel()
        step = int(slab_bytes(classes, self.total.numel(), plane) // (4 * classes * plane))
        for start in range(first, last, step):
            rows = slice(start - self.top, min(start + step, last) - self.top)
            yield Slab(start - planes.start, self._or_on_host(partial(self._means, rows)))

    def _means(self, rows: slice) -> Prediction:
        """The sums divided by those of g, for some planes without the padding. On the host."""
        inside = self.tiling.interior[1:]
        total = self.total[rows, *inside]
        p = (self.probabilities[:, rows, *inside] / total).clamp_(max=1)  # float32, as `total` is; 1 for rounding
        empty = total == 0  # in no window
        maps = None if self.maps is None else self.maps[:, rows, *inside] / total
        if empty.any():
            p.masked_fill_(empty, 0)[0].masked_fill_(empty, 1)
            maps = None if maps is None else maps.masked_fill_(empty, 0)
        return Prediction(p.cpu(), *(() if maps is None else maps.cpu()))
