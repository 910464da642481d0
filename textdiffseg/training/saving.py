"""When a training writes its checkpoints.

`checkpoint_latest`: at the end of each epoch, unless that takes much of the time. `checkpoint_best`: never without a
`checkpoint_latest` beside it, because the best weights alone cannot be trained further.
"""

import time

from textdiffseg.folds.replacing import discard
from textdiffseg.progress import Report
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.setup import TrainingSetup

CHEAP_SECONDS = 0.5  # a checkpoint that takes less is written in each epoch
MAX_SHARE = 0.05  # of the time, for others: an epoch on a GPU may take 20 s, and its checkpoint 2 s


class Saving:
    """Writes the state of a run."""

    def __init__(self, setup: TrainingSetup, state: TrainingState, report: Report):
        self._setup, self._state, self._report = setup, state, report
        self._cost = 0.0
        self._best_waits = False
        self._written = time.perf_counter()

    def save(self) -> None:
        """Write `checkpoint_latest`, then delete the fold that a restart replaces."""
        began = time.perf_counter()
        self._state.save(self._setup.fold)
        if self._best_waits:
            self.save_best()
        discard(self._setup.fold, self._report)
        self._written = time.perf_counter()
        self._cost = self._written - began

    def save_best(self) -> None:
        """Write `checkpoint_best`. The first one waits until `checkpoint_latest` is written."""
        self._best_waits = not self._setup.fold.checkpoint("latest").is_file()
        if not self._best_waits:
            self._state.save_best(self._setup.fold)

    def save_if_due(self) -> None:
        """Write it at the end of an epoch. A run that is killed later repeats the epochs since the last one.

        The epochs of the sampler are never repeated, as it starts from the best masks, whose file it changes.
        """
        position = self._state.position
        waited = time.perf_counter() - self._written
        needed = position.finished or position.trains_sampler
        if needed or self._cost < CHEAP_SECONDS or waited >= self._cost / MAX_SHARE:
            self.save()
