"""Random generators seeded by a few integers. On the CPU, all machines get the same numbers."""

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch  # workers of preprocessing do without


class Stream(IntEnum):
    """What random numbers of a training sample are for. Each kind has its own, so that none changes another."""

    PATCH = 0  # place and augmentation
    ORDER = 1  # of the cases in a pass
    TEXT = 2  # whether the case's text is read
    NOISE = 3
    REFERENCE = 6
    OVERVIEW = 7  # whether the overview is read
    FACTORS = 8  # of diffusion samples

    def numpy(self, *key: int) -> np.random.Generator:
        """numpy's generator for a key of integers of at least 0, e.g. (seed, epoch, index)."""
        return np.random.default_rng((self, *key))


def torch_generator(*key: int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """A torch generator on a device, seeded by integers of at least 0, e.g. (seed, epoch, index)."""
    import torch

    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) >> 1)
