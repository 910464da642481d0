"""Phrases of single samples, stacked into the `Queries` of a batch."""

from collections.abc import Sequence

import torch

from textdiffseg.queries import Queries
from textdiffseg.text.encoder import PhraseVectors


def stack_queries(samples: Sequence[Sequence[tuple[int, PhraseVectors]]], scan: PhraseVectors | None) -> Queries:
    """The queries of a batch, padded to its longest sample.

    Args:
        samples: of each sample the slots, as (label number, vectors of the phrase), both in the model's text space.
        scan: the vectors of the scan's description, whose tokens every sample reads; None: no description.
    """
    described = [] if scan is None else [scan.tokens]
    tokens = [torch.cat([*(phrase.tokens for _, phrase in slots), *described]) for slots in samples]
    width = tokens[0].shape[1]
    most_slots, longest = max(len(slots) for slots in samples), max(len(sample_tokens) for sample_tokens in tokens)
    labels = torch.zeros(len(samples), most_slots, dtype=torch.int64)
    vectors = torch.zeros(len(samples), most_slots, width)
    padded = torch.zeros(len(samples), longest, width)
    mask = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, slots in enumerate(samples):
        for slot, (number, phrase) in enumerate(slots):
            labels[row, slot], vectors[row, slot] = number, phrase.pooled
        padded[row, : len(tokens[row])], mask[row, : len(tokens[row])] = tokens[row], True
    return Queries(labels, vectors, padded, mask)
