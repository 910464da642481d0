"""Random generators seeded by a few integers. They draw on the CPU, so all devices get the same numbers."""

import numpy as np
import torch


def torch_generator(*key: int) -> torch.Generator:
    """A torch generator on the CPU, seeded by integers of at least 0, e.g. (seed, epoch, index)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
