"""The curves of a training run for TensorBoard, written without a network.

`log.jsonl` is the source. When a run starts or resumes, all epochs of the log are written to a new event file. So no
epoch is in it twice, and tracking can begin in the middle of a run.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from plans.choices import Tracker
from plans.layout import FoldFolder
from textdiffseg.extras import require
from textdiffseg.training.log import EpochLog

AddEpoch = Callable[[EpochLog], None]


def require_tracker(tracker: Tracker | None) -> None:
    """Raise `UserError` if the library of the tracker is not installed."""
    if tracker is not None:
        require("track", f"--track {tracker}", tracker)


@contextmanager
def tracked(fold: FoldFolder, tracker: Tracker | None, log: Sequence[EpochLog]) -> Iterator[AddEpoch]:
    """A function that adds an epoch to the event file. None: it does nothing.

    The epochs of `log` are in the file already. An older event file of the fold is deleted.
    """
    if tracker is None:
        yield lambda epoch: None
        return
    from torch.utils.tensorboard import SummaryWriter  # the import takes seconds

    for old in fold.event_files:
        old.unlink()
    start = time.time() - (log[-1].seconds if log else 0.0)  # TensorBoard then shows the training time
    with SummaryWriter(fold.events) as writer:

        def add(epoch: EpochLog) -> None:
            for tag, value in scalars(epoch).items():
                writer.add_scalar(tag, value, epoch.iteration, start + epoch.seconds)
            writer.flush()

        for epoch in log:
            add(epoch)
        yield add


def scalars(epoch: EpochLog) -> dict[str, float]:
    """The numbers of an epoch by TensorBoard's tag. `loss/` and `dice/` are groups with a curve per loss or label."""
    groups = {"loss": epoch.losses, "dice": epoch.dice, "latent_dice": epoch.latent_dice}
    values_by_tag = {"mean_dice": epoch.mean_dice, "learning_rate": epoch.learning_rate}
    values_by_tag |= {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
    seconds = {"iteration": epoch.iteration_seconds, "data": epoch.data_seconds}
    return values_by_tag | {f"seconds/{name}": value for name, value in seconds.items() if value is not None}
