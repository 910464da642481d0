"""Random numbers that are a function of a few whole numbers, drawn on the CPU so that devices agree."""

import numpy as np
import torch


def torch_generator(*key: int) -> torch.Generator:
    """A torch generator on the CPU, seeded by whole numbers of at least 0, e.g. (seed, epoch, index)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
