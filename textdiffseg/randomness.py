"""Random generators seeded by a few integers. On the CPU, all machines get the same numbers."""

import numpy as np
import torch


def torch_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on a device, seeded by integers of at least 0, e.g. (seed, epoch, index)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) >> 1)
